"""Hand-made drafts, verdicts and records for the tests beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from runtime.session import Ahead, Cost
from runtime.synera.chunk import ChunkRecord, DecisionPoint, Draft, DraftToken, Verdict
from runtime.synera.knobs import Knobs


def token(confidence: float = 0.5, exit_index: int = 0, **changes: Any) -> DraftToken:
    fields: dict[str, Any] = {"margin": 0.25, "entropy": 1.5, "runner_up": 4, "sketch": np.arange(16, dtype=np.float32) / 4}
    return DraftToken(3, exit_index, confidence, **(fields | changes))


def draft(confidences: Sequence[float] = (0.9, 0.5), importance: float = 0.5, seconds: float = 0.1) -> Draft:
    return Draft(tuple(token(c) for c in confidences), importance, seconds)


def verdict(accepted: int = 1, **changes: Any) -> Verdict:
    fields: dict[str, Any] = {
        "next_token": 9,
        "queue_seconds": 0.01,
        "compute_seconds": 0.04,
        "cloud_seconds": 0.02,
        "network_seconds": 0.1,
        "cloud_tokens": 7,
        "uplink_bytes": 300,
        "downlink_bytes": 200,
        "load": 2.0,
    }
    return Verdict(accepted, **(fields | changes))


def record(
    of: Draft | None = None,
    says: Verdict | None = None,
    *,
    committed: int = 2,
    at: float = 1.0,
    seconds: float = 0.25,
    error: str | None = None,
    lost_bytes: tuple[int, int] = (0, 0),
    joules: float = 0.5,
    ahead: Ahead | None = None,
) -> ChunkRecord:
    offloaded, hand = says is not None or error is not None, of or draft()
    uplink, downlink = (says.uplink_bytes, says.downlink_bytes) if says else lost_bytes
    return ChunkRecord(
        knobs=Knobs(),
        cost=Cost(
            seconds=seconds,
            device_seconds=hand.seconds,
            wait_seconds=0.15 if offloaded else 0.0,
            cloud_seconds=says.cloud_seconds if says else 0.0,
            cloud_tokens=says.cloud_tokens if says else 0,
            joules=joules,
            uplink_bytes=uplink,
            downlink_bytes=downlink,
        ),
        committed=tuple(range(committed)),
        committed_at=at,
        offloaded=offloaded,
        judged=len(hand.tokens) if says else 0,
        accepted=says.accepted if says else 0,
        error=error,
        ahead=ahead,
        draft=hand,
        verdict=says,
    )


def point(of: Draft | None = None, **changes: Any) -> DecisionPoint:
    fields: dict[str, Any] = {
        "chunk": 1,
        "offloaded": 0,
        "prompt_tokens": 32,
        "generated_tokens": 0,
        "max_new_tokens": 40,
        "probe_seconds": None,
    }
    return DecisionPoint(of or draft(), **(fields | changes))
