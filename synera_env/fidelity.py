"""Live held against replay: the knobs of a live answer, fed to the replay, must give the same tokens chunk by chunk.

What does not live here: the runs themselves (agents/evaluation.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from runtime.errors import SettingError, UncoveredError
from runtime.session import StepRecord
from synera_env.base import DecisionEnv
from synera_env.metrics import EpisodeMetrics


@dataclass(frozen=True)
class TokenCheck:
    """The outcome for one answer."""

    identical: bool
    first_difference: str
    """Where and how the two parted; empty when they did not."""
    same_bytes: bool = False
    """Whether the messages of the whole answer took the same bytes too, up and down; never where the tokens differ."""


def same_tokens(records: Sequence[StepRecord], replay: DecisionEnv, prompt: int) -> TokenCheck:
    """Feed the knobs of live records to the replay of the same prompt and compare every chunk.

    A question that the live cloud left without an answer is lost in the replay too, and no other; so what a live outage made the
    device send again has no counterpart in the replay's bytes.

    Args:
        records: the live answer's records.
        replay: an environment that replays the same prompts; the answer under way in it ends.
        prompt: index of the prompt there.

    Raises:
        SettingError: the live answer was sampled; graphs are greedy.
    """
    if any(record.sampled for record in records):
        raise SettingError(
            "this answer was sampled and graphs are greedy, so no replay can give its tokens; compare greedy answers"
        )
    asked = [record for record in records if record.offloaded]
    lost = frozenset(number for number, record in enumerate(asked, 1) if record.error is not None)
    episode = replay.episode(seed=0, options={"prompt": prompt, "link": 0, "link_offset_seconds": 0.0}, lost=lost)
    try:
        episode.session.begin(episode.prompt_tokens, replay.schema.first_knobs)
    except UncoveredError as uncovered:
        return TokenCheck(False, f"chunk 1: {uncovered}")
    for number, live in enumerate(records, 1):
        try:
            replayed = episode.session.advance(live.knobs)
        except UncoveredError as uncovered:
            return TokenCheck(False, f"chunk {number}: {uncovered}")
        for what, one, other in (
            ("draft", live.drafted, replayed.record.drafted),
            ("offloaded", live.offloaded, replayed.record.offloaded),
            ("committed", live.committed, replayed.record.committed),
        ):
            if one != other:
                return TokenCheck(False, f"chunk {number}: {what} live {one}, replay {other}")
        if replayed.done != (number == len(records)):
            return TokenCheck(
                False, f"chunk {number}: the replay {'ended' if replayed.done else 'went on'}, the live run did not"
            )
    return TokenCheck(True, "", _bytes(records) == _bytes(episode.session.records))


def _bytes(records: Sequence[StepRecord]) -> tuple[int, int]:
    """Of an answer: when an early chunk is answered depends on times, and with it which step counts what came down."""
    return sum(record.cost.uplink_bytes for record in records), sum(record.cost.downlink_bytes for record in records)


def replay_error(live: Sequence[EpisodeMetrics], replayed: Sequence[EpisodeMetrics]) -> dict[str, dict[str, float]]:
    """Return, by metric, mean and 95th percentile of |live - replay| / live over paired answers where live is not 0."""
    errors: dict[str, dict[str, float]] = {}
    for f in fields(EpisodeMetrics):
        pairs = np.array([(getattr(a, f.name), getattr(b, f.name)) for a, b in zip(live, replayed, strict=True)], float)
        known = pairs[np.isfinite(pairs).all(1) & (pairs[:, 0] != 0)]
        if len(known):
            relative = np.abs(known[:, 0] - known[:, 1]) / np.abs(known[:, 0])
            errors[f.name] = {"mean": float(relative.mean()), "p95": float(np.quantile(relative, 0.95))}
    return errors
