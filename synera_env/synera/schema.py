"""What a controller sees and sets: the one Encoder (decision point to vector) and the one knob map (action to knobs).

What does not live here: rewards, worlds, controllers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from runtime.synera.knobs import MAX_DRAFT_LENGTH, Knobs
from runtime.synera.lens import SKETCH_SIZE
from runtime.synera.session import DecisionPoint, StepRecord
from synera_env.reward import Preference

KNOB_NAMES = ("confidence_threshold", "importance_threshold", "exit_layer", "exit_margin", "draft_length", "offload_budget")
FIRST_KNOBS = Knobs()
"""Exit and draft length of an answer's first chunk, which is drafted before any decision: full depth, four tokens."""
HISTORY = 3
"""Settled chunks that the observation shows."""
_SMOOTHING = 0.7  # weight of the past in the moving averages of the link estimates
_LOG_SECONDS = (1e-3, 1e2)


@dataclass(frozen=True)
class Feature:
    """One entry of the observation."""

    name: str
    unit: str
    low: float
    high: float


def _features() -> tuple[Feature, ...]:
    def unit(name: str, what: str) -> Feature:
        return Feature(name, what, 0.0, 1.0)

    rows = [unit("draft_tokens", f"tokens of the draft in hand / {MAX_DRAFT_LENGTH}")]
    for i in range(MAX_DRAFT_LENGTH):
        rows += [
            unit(f"confidence_{i}", "top-1 probability of draft token i; 1 past the end"),
            unit(f"margin_{i}", "top-1 minus top-2 probability; 1 past the end"),
            Feature(f"entropy_{i}", "nats; 0 past the end", 0.0, 16.0),
        ]
    rows += [
        unit("least_confidence", "lowest confidence of the draft"),
        unit("importance", "quantile of the chunk's importance"),
    ]
    rows += [unit("mean_exit", "mean exit index of the draft / last exit index")]
    rows += [
        Feature(f"sketch_{i}", "last draft token's hidden state on principal direction i, in deviations", -8.0, 8.0)
        for i in range(SKETCH_SIZE)
    ]
    for back in range(1, HISTORY + 1):
        rows += [
            unit(f"past_{back}_confidence", "lowest confidence of the chunk that many back; 1 before the first"),
            unit(f"past_{back}_importance", "its importance; 0 before the first"),
            unit(f"past_{back}_offloaded", "1 if it was offloaded"),
            unit(f"past_{back}_accepted", "accepted share of its draft; 1 if kept"),
        ]
    rows += [
        unit("acceptance", "moving average of the accepted share of offloaded chunks; 0.5 before the first"),
        unit("offload_rate", "offloaded chunks / chunks so far"),
        Feature("chunks", "settled chunks / 16", 0.0, 64.0),
        unit("progress", "generated tokens / most that may be generated"),
        Feature("prompt_tokens", "prompt tokens / 128", 0.0, 4096.0),
        Feature("rtt", "log10 of the estimated round trip in seconds; -1 until one is known", -3.0, 2.0),
        unit("rtt_known", "1 once a round trip was measured"),
        Feature("throughput", "log10 of bits of request and response over network seconds, last offloads; 3 before", 0.0, 12.0),
        Feature("queue", "log10 of the last queue time in seconds, -3 before and below", -3.0, 2.0),
        Feature("compute", "log10 of the last compute time in seconds, -3 before and below", -3.0, 2.0),
        Feature("load", "requests waiting or running at the cloud, last hint / 8", 0.0, 128.0),
        unit("cloud_lost", "1 if the last offloaded chunk got no verdict"),
    ]
    rows += [
        Feature(f"weight_{n}", "log10 of the preference weight (-6 for 0)", -6.0, 6.0)
        for n in ("quality", "latency", "cost", "energy", "traffic")
    ]
    return tuple(rows)


FEATURES = _features()


def _log10(seconds: float) -> float:
    return float(np.log10(np.clip(seconds, *_LOG_SECONDS)))


class Encoder:
    """Turns what the device knows into a float32 vector; the same object in training and on a device.

    Stateless: everything comes from the decision point, the records so far and the preference.
    """

    def __init__(self, exits: int) -> None:
        """See the class.

        Args:
            exits: how many exits the SLM has.
        """
        self.exits = exits
        self.low = np.array([f.low for f in FEATURES], np.float32)
        self.high = np.array([f.high for f in FEATURES], np.float32)

    @property
    def observation_space(self) -> spaces.Box:
        """One entry a feature, in the order of :data:`FEATURES`."""
        return spaces.Box(self.low, self.high, dtype=np.float32)

    @property
    def action_space(self) -> spaces.Box:
        """One entry a knob, in the order of :data:`KNOB_NAMES`, each in -1..1."""
        return spaces.Box(-1.0, 1.0, (len(KNOB_NAMES),), np.float32)

    @property
    def schema_hash(self) -> str:
        """Changes when any feature, knob or bound changes; written into every bundle."""
        schema = [[astuple(f) for f in FEATURES], KNOB_NAMES, MAX_DRAFT_LENGTH, self.exits]
        return hashlib.sha256(json.dumps(schema).encode()).hexdigest()[:16]

    def knobs(self, action: NDArray[np.floating]) -> Knobs:
        """Map an action in -1..1 to knobs; values outside are clipped.

        Thresholds, margin and budget are linear in 0..1; exits and draft lengths share the range in equal parts.
        """
        share = (np.clip(np.asarray(action, float), -1.0, 1.0) + 1.0) / 2.0
        return Knobs(
            confidence_threshold=float(share[0]),
            importance_threshold=float(share[1]),
            exit_index=min(int(share[2] * self.exits), self.exits - 1),
            exit_margin=float(share[3]),
            draft_length=1 + min(int(share[4] * MAX_DRAFT_LENGTH), MAX_DRAFT_LENGTH - 1),
            offload_budget=float(share[5]),
        )

    def action(self, knobs: Knobs) -> NDArray[np.float32]:
        """Inverse of :meth:`knobs` (exits and lengths at the middle of their part)."""
        exit_index = self.exits - 1 if knobs.exit_index == -1 else knobs.exit_index
        share = (
            knobs.confidence_threshold,
            knobs.importance_threshold,
            (exit_index + 0.5) / self.exits,
            knobs.exit_margin,
            (knobs.draft_length - 0.5) / MAX_DRAFT_LENGTH,
            knobs.offload_budget,
        )
        return (2.0 * np.array(share) - 1.0).astype(np.float32)

    def encode(self, point: DecisionPoint, records: Sequence[StepRecord], preference: Preference) -> NDArray[np.float32]:
        """Return the observation, [features], clipped to the documented bounds."""
        values = [*self._draft(point), *_past(records), *_progress(point, records), *_cloud(point, records)]
        values += [float(np.log10(max(w, 1e-6))) for w in astuple(preference)]
        return np.clip(np.array(values, np.float32), self.low, self.high)

    def _draft(self, point: DecisionPoint) -> list[float]:
        tokens = point.draft.tokens
        values = [len(tokens) / MAX_DRAFT_LENGTH]
        for token in tokens:
            values += [token.confidence, token.margin, token.entropy]
        values += [1.0, 1.0, 0.0] * (MAX_DRAFT_LENGTH - len(tokens))
        mean_exit = sum(t.exit_index for t in tokens) / len(tokens) / max(1, self.exits - 1)
        return [*values, point.draft.confidence, point.draft.importance, mean_exit, *tokens[-1].sketch.tolist()]


def _past(records: Sequence[StepRecord]) -> list[float]:
    values: list[float] = []
    for back in range(1, HISTORY + 1):
        if back > len(records):
            values += [1.0, 0.0, 0.0, 1.0]
            continue
        r = records[-back]
        accepted = r.verdict.accepted / len(r.draft.tokens) if r.verdict else 1.0
        values += [r.draft.confidence, r.draft.importance, float(r.offloaded), accepted]
    return values


def _progress(point: DecisionPoint, records: Sequence[StepRecord]) -> list[float]:
    acceptance = 0.5
    for r in records:
        if r.verdict:
            acceptance = _SMOOTHING * acceptance + (1 - _SMOOTHING) * r.verdict.accepted / len(r.draft.tokens)
    return [
        acceptance,
        point.offloaded / max(1, len(records)),
        len(records) / 16,
        point.generated_tokens / point.max_new_tokens,
        point.prompt_tokens / 128,
    ]


def _cloud(point: DecisionPoint, records: Sequence[StepRecord]) -> list[float]:
    rtt, throughput = point.probe_seconds, None
    for r in records:
        if v := r.verdict:
            bits = 8.0 * (v.uplink_bytes + v.downlink_bytes) / max(v.network_seconds, 1e-6)
            rtt = v.network_seconds if rtt is None else _SMOOTHING * rtt + (1 - _SMOOTHING) * v.network_seconds
            throughput = bits if throughput is None else _SMOOTHING * throughput + (1 - _SMOOTHING) * bits
    last = next((r.verdict for r in reversed(records) if r.verdict), None)
    sent = next((r for r in reversed(records) if r.offloaded), None)
    return [
        -1.0 if rtt is None else _log10(rtt),
        float(rtt is not None),
        3.0 if throughput is None else float(np.log10(max(throughput, 1.0))),
        _log10(last.queue_seconds) if last else -3.0,
        _log10(last.compute_seconds) if last else -3.0,
        last.load / 8 if last else 0.0,
        float(sent is not None and sent.error is not None),
    ]
