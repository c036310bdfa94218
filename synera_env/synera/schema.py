"""Synera's rows: the knobs that a controller sets at each chunk, and the features that it sees.

To add one, add its row (a knob also needs its field in runtime/synera/knobs.py). What does not live here: what is made
of the rows (synera_env/schema.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from runtime.synera.chunk import ChunkRecord, DecisionPoint, DraftToken, Verdict
from runtime.synera.knobs import MAX_DRAFT_LENGTH, Knobs
from runtime.synera.lens import SKETCH_SIZE
from synera_env.reward import Preference
from synera_env.schema import Feature, Knob, Schema, View, preference_features

NEVER = Knobs(offload_budget=0.0)
"""The SLM alone, at full depth."""
ALWAYS = Knobs(confidence_threshold=1.0, offload_budget=1.0, draft_length=4, draft_ahead=0.3)
"""Every chunk of four is checked: the LLM's own answer."""
THRESHOLD = Knobs(confidence_threshold=0.7, offload_budget=1.0, draft_length=4, draft_ahead=0.3)
"""A hand-set threshold, unsearched."""
FIRST_KNOBS = Knobs()
"""Exit and draft length of an answer's first chunk, which is drafted before any decision: full depth, four tokens."""
HISTORY = 3
"""Settled chunks that the observation shows."""
_SMOOTHING = 0.7  # weight of the past in the moving averages
_LEAST_SECONDS, _MOST_SECONDS = 1e-3, 1e2


def synera_schema(exits: int) -> Schema:
    """Return the schema of a device whose SLM has so many exits."""
    return Schema(
        "synera",
        _knobs(exits),
        [*_draft_features(exits), *_past_features(), *_progress_features(), *_cloud_features(), *preference_features()],
        make_knobs=Knobs,
        first_knobs=FIRST_KNOBS,
        presets={"never": NEVER, "always": ALWAYS, "threshold": THRESHOLD},
        view=SyneraView.of,
        searches=(
            {"confidence_threshold": 7, "exit_index": exits, "draft_length": 4},
            {"confidence_threshold": 3, "exit_margin": 4, "draft_length": 2},
            {"confidence_threshold": 2, "importance_threshold": 2, "offload_budget": 3},
        ),
        choices=_choices(exits),
        impossible=_impossible,
    )


def _choices(exits: int) -> list[Knobs]:
    """Keep the chunk in hand or send it; and draft the next one in whole, in whole with early exits, or to the first exit alone,
    of 1, 2, 4 or 8 tokens. Who chooses so sees the confidences itself, and needs no thresholds.
    """
    depths = [(exits - 1, 1.0), (exits - 1, 0.7), (0, 1.0)] if exits > 1 else [(0, 1.0)]
    return [
        Knobs(1.0, 0.0, exit_index, exit_margin, length, draft_ahead=0.3, offload_budget=budget)
        for budget in (0.0, 1.0)
        for exit_index, exit_margin in depths
        for length in (1, 2, 4, 8)
    ]


def _impossible(point: DecisionPoint, knobs: Knobs) -> bool:
    """Whether knobs would send the chunk in hand where the cloud is shut, or more often than their own budget allows."""
    draft = point.draft
    unlimited = replace(knobs, offload_budget=1.0)
    if knobs.offload_budget == 0.0 or not unlimited.wants_offload(
        draft.confidence, draft.importance, point.chunk, point.offloaded
    ):
        return False
    return point.cloud_shut or not knobs.wants_offload(draft.confidence, draft.importance, point.chunk, point.offloaded)


def _knobs(exits: int) -> list[Knob]:
    def unit(name: str, what: str, meaning: str, *grid: float) -> Knob:
        return Knob(name, 0.0, 1.0, what, meaning, grid)

    return [
        unit(
            "confidence_threshold",
            "probability",
            "uncertain: the least confident token is below it; 1: always",
            *(0.7, 0.9, 0.5, 0.3, 0.6, 0.8, 0.97),
        ),
        unit("importance_threshold", "quantile", "important: the chunk's importance is at least this", 0.0, 0.5),
        Knob(
            "exit_index",
            0,
            exits - 1,
            "exit",
            "deepest exit run for a draft token of the next chunk",
            tuple(range(exits))[::-1],
            integer=True,
        ),
        unit(
            "exit_margin",
            "probability",
            "leave at the first exit whose top-1 minus top-2 probability reaches it; 1: never early",
            *(1.0, 0.7, 0.9, 0.98),
        ),
        Knob("draft_length", 1, MAX_DRAFT_LENGTH, "tokens", "most tokens in the next chunk", (4, 1, 2, 8), integer=True),
        unit(
            "draft_ahead",
            "probability",
            "while a check is in flight, draft on where the guess of its outcome is at least so probable; 1: never",
            *(0.3, 1.0, 0.0),
        ),
        unit("offload_budget", "share", "chunk t may be offloaded while offloaded + 1 <= ceil(budget * t)", 1.0, 0.25, 0.5),
    ]


@dataclass(frozen=True)
class SyneraView(View):
    """What the extractors read; derived estimates are made once an observation."""

    point: DecisionPoint
    records: Sequence[ChunkRecord]
    last: Verdict | None
    """The last verdict."""
    acceptance: float
    """Moving average of the accepted share of the chunks that were judged."""
    guess_hits: float
    """Moving average of the guesses that were right."""
    rtt_seconds: float | None
    """Moving average of network seconds, from the first probe on."""
    throughput_bps: float | None
    """Moving average of the bits of request and response over network seconds."""

    @classmethod
    def of(cls, point: DecisionPoint, records: Sequence[ChunkRecord], preference: Preference) -> SyneraView:
        """Look at a decision point and the chunks settled before it."""
        last, acceptance, guess_hits = None, 0.5, 0.5
        rtt_seconds, throughput_bps = point.probe_seconds, None
        for record in records:
            if (ahead := record.ahead) is not None:
                guess_hits = smoothed(guess_hits, ahead.hit)
            if (said := record.verdict) is not None:
                last, seconds = said, said.network_seconds
                acceptance = smoothed(acceptance, record.accepted / record.judged)
                rtt_seconds = seconds if rtt_seconds is None else smoothed(rtt_seconds, seconds)
                bps = throughput(said.uplink_bytes + said.downlink_bytes, seconds)
                throughput_bps = bps if throughput_bps is None else smoothed(throughput_bps, bps)
        return cls(point, records, preference, last, acceptance, guess_hits, rtt_seconds, throughput_bps)

    @property
    def tokens(self) -> tuple[DraftToken, ...]:
        """The draft in hand."""
        return self.point.draft.tokens

    def past(self, of: Callable[[ChunkRecord], float], before_the_first: float) -> list[float]:
        """A figure of each of the last HISTORY chunks, the last first."""
        found = list(map(of, self.records[: -HISTORY - 1 : -1]))
        return found + [before_the_first] * (HISTORY - len(found))

    def by_token(self, of: Callable[[DraftToken], float], past_the_end: float) -> list[float]:
        """A figure of each draft token, up to the longest draft."""
        return list(map(of, self.tokens)) + [past_the_end] * (MAX_DRAFT_LENGTH - len(self.tokens))


def smoothed(average: float, value: float) -> float:
    """Return a moving average with one more value."""
    return _SMOOTHING * average + (1 - _SMOOTHING) * value


def throughput(link_bytes: int, network_seconds: float) -> float:
    """Return the bits per second of a check's request and response together."""
    return 8.0 * link_bytes / max(network_seconds, 1e-6)


def log_seconds(seconds: float) -> float:
    """Return how a time is shown: log10, of 1 ms at least and 100 s at most."""
    return math.log10(min(max(seconds, _LEAST_SECONDS), _MOST_SECONDS))


def log_throughput(bits_per_second: float) -> float:
    """Return how a throughput is shown: log10, of 1 bit/s at least."""
    return math.log10(max(bits_per_second, 1.0))


def _unit(name: str, unit: str, meaning: str, extract: Callable[[SyneraView], Any], size: int = 1, group: str = "") -> Feature:
    return Feature(name, unit, 0.0, 1.0, meaning, extract, size, group)


def _draft_features(exits: int) -> list[Feature]:
    longest, deepest = MAX_DRAFT_LENGTH, max(1, exits - 1)
    by_token = (longest, "token")
    return [
        _unit("draft_tokens", f"tokens / {longest}", "length of the draft in hand", lambda v: len(v.tokens) / longest),
        _unit(
            "confidence",
            "probability",
            "top-1 of each draft token; 1 past the end",
            lambda v: v.by_token(attrgetter("confidence"), 1.0),
            *by_token,
        ),
        _unit(
            "margin",
            "probability",
            "top-1 minus top-2 of each draft token; 1 past the end",
            lambda v: v.by_token(attrgetter("margin"), 1.0),
            *by_token,
        ),
        Feature(
            "entropy",
            "nats",
            0.0,
            16.0,
            "of each draft token; 0 past the end",
            lambda v: v.by_token(attrgetter("entropy"), 0.0),
            *by_token,
            scale=1.0,
        ),
        _unit("least_confidence", "probability", "lowest confidence of the draft", lambda v: v.point.draft.confidence),
        _unit(
            "importance",
            "quantile",
            "how likely the LLM rejects a token of the draft, among recorded drafts of its length",
            lambda v: v.point.draft.importance,
        ),
        _unit(
            "mean_exit",
            "exit / last exit",
            "mean exit of the draft's tokens",
            lambda v: sum(t.exit_index for t in v.tokens) / len(v.tokens) / deepest,
        ),
        Feature(
            "sketch",
            "deviations",
            -8.0,
            8.0,
            "last draft token's hidden state on the principal directions",
            lambda v: v.tokens[-1].sketch.tolist(),
            SKETCH_SIZE,
            center=0.0,
            scale=1.0,
        ),
    ]


def _past_features() -> list[Feature]:
    by_chunk = (HISTORY, "chunk")
    return [
        _unit(
            "past_confidence",
            "probability",
            "lowest confidence of each of the last chunks, the last first; 1 before the first",
            lambda v: v.past(attrgetter("draft.confidence"), 1.0),
            *by_chunk,
        ),
        _unit(
            "past_importance",
            "quantile",
            "their importance; 0 before the first",
            lambda v: v.past(attrgetter("draft.importance"), 0.0),
            *by_chunk,
        ),
        _unit(
            "past_offloaded", "0 or 1", "1 where it was offloaded", lambda v: v.past(attrgetter("offloaded"), 0.0), *by_chunk
        ),
        _unit(
            "past_accepted",
            "share",
            "accepted part of its draft; 1 where there was no verdict",
            lambda v: v.past(lambda r: r.accepted / r.judged if r.judged else 1.0, 1.0),
            *by_chunk,
        ),
    ]


def _progress_features() -> list[Feature]:
    return [
        _unit(
            "acceptance",
            "share",
            "moving average of the accepted part of offloaded chunks; 0.5 before the first",
            lambda v: v.acceptance,
        ),
        _unit(
            "guess_hits",
            "share",
            "moving average of the guesses drafted on from that were right; 0.5 before the first",
            lambda v: v.guess_hits,
        ),
        _unit(
            "offload_rate", "share", "offloaded chunks of those so far", lambda v: v.point.offloaded / max(1, len(v.records))
        ),
        Feature("chunks", "chunks / 16", 0.0, 64.0, "settled chunks", lambda v: len(v.records) / 16),
        _unit(
            "progress",
            "share",
            "generated tokens of the most that may be",
            lambda v: v.point.generated_tokens / v.point.max_new_tokens,
        ),
        Feature(
            "prompt_tokens",
            "tokens / 128",
            0.0,
            4096.0,
            "length of the prompt",
            lambda v: v.point.prompt_tokens / 128,
            center=0.25,
        ),
    ]


def _cloud_features() -> list[Feature]:
    def seconds(name: str, meaning: str, extract: Callable[[SyneraView], float], center: float) -> Feature:
        return Feature(name, "log10 s", -3.0, 2.0, meaning, extract, center=center, scale=1.0)

    return [
        seconds(
            "rtt",
            "estimated round trip; -1 until one is known",
            lambda v: -1.0 if v.rtt_seconds is None else log_seconds(v.rtt_seconds),
            -1.0,
        ),
        _unit("rtt_known", "0 or 1", "1 once a round trip was measured", lambda v: float(v.rtt_seconds is not None)),
        Feature(
            "throughput",
            "log10 bit/s",
            0.0,
            12.0,
            "request and response over network seconds, moving average; 3 before the first",
            lambda v: 3.0 if v.throughput_bps is None else log_throughput(v.throughput_bps),
            center=4.5,
            scale=1.0,
        ),
        seconds("queue", "last queue time; -3 before", lambda v: log_seconds(v.last.queue_seconds) if v.last else -3.0, -2.0),
        seconds(
            "compute", "last compute time; -3 before", lambda v: log_seconds(v.last.compute_seconds) if v.last else -3.0, -2.0
        ),
        Feature(
            "load",
            "requests / 8",
            0.0,
            128.0,
            "waiting or running at the cloud, last hint",
            lambda v: v.last.load / 8 if v.last else 0.0,
            center=0.25,
        ),
        _unit("cloud_lost", "0 or 1", "1 if the last offloaded chunk got no verdict", _cloud_lost),
    ]


def _cloud_lost(view: SyneraView) -> float:
    sent = next((r for r in reversed(view.records) if r.offloaded), None)
    return float(sent is not None and sent.error is not None)
