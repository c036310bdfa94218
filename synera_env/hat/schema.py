"""HAT's rows: the knobs that a controller sets before each upload, and the features that it sees.

What does not live here: what is made of the rows (synera_env/schema.py), and the rules of the paper (agents/rules/hat.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from runtime.hat.knobs import LEAST_DOUBLINGS, MAX_CANDIDATES, MAX_DRAFT_LENGTH, MOST_DOUBLINGS, Knobs
from runtime.hat.values import DecisionPoint, Estimates, HatRecord
from runtime.wire.sizes import PRECISIONS
from synera_env.reward import Preference
from synera_env.schema import Feature, Knob, Schema, View, preference_features

HALF = PRECISIONS.index("bf16")
U_SHAPE = Knobs(precision=HALF)
"""The prompt in one piece, then a token at a time: the split alone."""
U_SARATHI = Knobs(chunk_doublings=7.0, precision=HALF)
"""The same with the prompt in fixed chunks of 128."""
DRAFTS = Knobs(draft_length=MAX_DRAFT_LENGTH, precision=HALF)
"""Speculative decoding alone."""
FIXED = Knobs(chunk_doublings=7.0, draft_length=MAX_DRAFT_LENGTH, candidates=MAX_CANDIDATES, precision=HALF)
"""All of HAT with hand-set figures: eta 0.6, chunks of 128, four candidates."""
HISTORY = 3
"""Drafts that the observation shows."""
_SMOOTHING = 0.8
_LEAST_SECONDS, _MOST_SECONDS = 1e-6, 1e2


def hat_schema() -> Schema:
    """Return HAT's schema; it is the same for every model."""
    return Schema(
        "hat",
        _knobs(),
        [*_prompt_features(), *_draft_features(), *_cloud_features(), *preference_features()],
        make_knobs=Knobs,
        first_knobs=U_SHAPE,
        presets={"u-shape": U_SHAPE, "u-sarathi": U_SARATHI, "drafts": DRAFTS, "hat-fixed": FIXED},
        view=HatView.of,
        searches=({"chunk_doublings": 3, "draft_threshold": 5, "draft_length": 2, "candidates": 2, "precision": 2},),
        choices=_choices(),
    )


def _choices() -> list[Knobs]:
    """Chunks of 16, 64 or 512 tokens or all; no draft, or a short or long one, sure or not; precision by half or by int8."""
    drafts = [(0.6, 0, 0), (0.9, 2, 2), (0.6, 4, 2), (0.6, 8, 4), (0.3, 8, 4), (0.3, 8, 0)]
    return [
        Knobs(doublings, threshold, length, candidates, precision)
        for precision in (HALF, HALF + 1)
        for doublings in (4.0, 6.0, 9.0)
        for threshold, length, candidates in drafts
    ]


def _knobs() -> list[Knob]:
    return [
        Knob(
            "chunk_doublings",
            LEAST_DOUBLINGS,
            MOST_DOUBLINGS,
            "log2 tokens",
            "of the prompt, 2 to the power of this many tokens go next",
            (7.0, 5.0, 9.0, 4.0, 6.0, 8.0),
        ),
        Knob(
            "draft_threshold",
            0.0,
            1.0,
            "probability",
            "a draft ends with the first token whose top-1 probability is below it",
            (0.6, 0.3, 0.9, 0.0, 0.75),
        ),
        Knob("draft_length", 0, MAX_DRAFT_LENGTH, "tokens", "most tokens in a draft; 0: none", (8, 4, 2, 0), integer=True),
        Knob(
            "candidates",
            0,
            MAX_CANDIDATES,
            "branches",
            "while a draft is away, draft on from so many candidates of its last token; 0: wait",
            (4, 0, 2),
            integer=True,
        ),
        Knob(
            "precision",
            0,
            len(PRECISIONS) - 1,
            "fp32, bf16, int8",
            "of the states that travel; the first decision of an answer fixes it",
            (1, 2, 0),
            integer=True,
        ),
    ]


@dataclass(frozen=True)
class HatView(View):
    """What the extractors read; derived figures are made once an observation."""

    point: DecisionPoint
    drafts: Sequence[HatRecord]
    """Uploads that were drafts, the last first, at most HISTORY."""
    acceptance: float
    """Moving average of the accepted part of drafts."""
    tokens_a_draft: float
    """Moving average of the tokens that an upload of a draft brought."""
    hits: float
    """Moving average of what was drafted on and kept from: right branches."""

    @classmethod
    def of(cls, point: DecisionPoint, records: Sequence[HatRecord], preference: Preference) -> HatView:
        """Look at a decision point and the uploads before it."""
        acceptance, brought, hits = 0.5, 1.0, 0.5
        drafts = [record for record in records if not record.prompt_rows]
        for record in drafts:
            brought = _smoothed(brought, len(record.committed))
            if record.judged:
                acceptance = _smoothed(acceptance, record.accepted / record.judged)
            if record.ahead is not None:
                hits = _smoothed(hits, record.ahead.hit)
        return cls(point, records, preference, drafts[: -HISTORY - 1 : -1], acceptance, brought, hits)

    @property
    def estimates(self) -> Estimates:
        """What the device has measured."""
        return self.point.estimates

    def past(self, of: Callable[[HatRecord], float], before_the_first: float) -> list[float]:
        """A figure of each of the last drafts, the last first."""
        return [of(record) for record in self.drafts] + [before_the_first] * (HISTORY - len(self.drafts))

    def upload_seconds(self) -> float | None:
        """Time of a state on the link, in the precision in force, or half; None while the rate is not known."""
        rate, precision = self.estimates.uplink_bytes_per_second, self.point.precision
        if rate is None:
            return None
        return self.point.state_bytes[HALF if precision is None else precision] / rate


def _smoothed(average: float, value: float) -> float:
    return _SMOOTHING * average + (1 - _SMOOTHING) * value


def log_seconds(seconds: float | None) -> float:
    """Return how a time is shown: log10, of 1 us at least and 100 s at most; -6 where it is not known."""
    return math.log10(min(max(seconds or 0.0, _LEAST_SECONDS), _MOST_SECONDS))


def _unit(name: str, unit: str, meaning: str, extract: Callable[[HatView], Any], size: int = 1, group: str = "") -> Feature:
    return Feature(name, unit, 0.0, 1.0, meaning, extract, size, group)


def _prompt_features() -> list[Feature]:
    return [
        _unit(
            "prompt_left",
            "share",
            "of the prompt that has not been sent",
            lambda v: v.point.prompt_left / v.point.prompt_tokens,
        ),
        Feature(
            "prompt_tokens",
            "log2 tokens",
            0.0,
            20.0,
            "length of the prompt",
            lambda v: math.log2(v.point.prompt_tokens),
            center=6.0,
            scale=2.0,
        ),
        Feature(
            "tokens_left",
            "log2 tokens",
            0.0,
            20.0,
            "of the prompt that have not been sent, and one",
            lambda v: math.log2(v.point.prompt_left + 1),
            center=4.0,
            scale=3.0,
        ),
        _unit(
            "progress",
            "share",
            "generated tokens of the most that may be",
            lambda v: v.point.generated_tokens / v.point.max_new_tokens,
        ),
        _unit(
            "precision",
            "0 or 1",
            "1 at the precision in force: fp32, bf16, int8; all 0 before the first decision",
            lambda v: [float(v.point.precision == place) for place in range(len(PRECISIONS))],
            len(PRECISIONS),
        ),
    ]


def _draft_features() -> list[Feature]:
    by_draft, longest = (HISTORY, "draft"), MAX_DRAFT_LENGTH
    return [
        _unit(
            "ahead",
            "probability",
            "top-1 of each token that the next draft begins with, drafted meanwhile; 0 past the end",
            lambda v: [t.confidence for t in v.point.ahead] + [0.0] * (longest - len(v.point.ahead)),
            longest,
        ),
        _unit(
            "past_drafted",
            f"tokens / {longest}",
            "length of each of the last drafts, the last first; 0 before the first",
            lambda v: v.past(lambda r: len(r.draft) / longest, 0.0),
            *by_draft,
        ),
        _unit(
            "past_confidence",
            "probability",
            "of their least confident token; 1 without",
            lambda v: v.past(lambda r: r.confidence, 1.0),
            *by_draft,
        ),
        _unit(
            "past_accepted",
            "share",
            "accepted part of them; 1 where there was nothing to accept",
            lambda v: v.past(lambda r: r.accepted / r.judged if r.judged else 1.0, 1.0),
            *by_draft,
        ),
        _unit(
            "acceptance", "share", "moving average of the accepted part of drafts; 0.5 before the first", lambda v: v.acceptance
        ),
        Feature(
            "tokens_a_draft",
            "tokens",
            0.0,
            float(longest + 1),
            "moving average of the tokens that an upload brought; 1 before the first",
            lambda v: v.tokens_a_draft,
            center=2.0,
            scale=2.0,
        ),
        _unit("hits", "share", "moving average of drafting on that was right; 0.5 before the first", lambda v: v.hits),
    ]


def _cloud_features() -> list[Feature]:
    def seconds(name: str, meaning: str, extract: Callable[[HatView], float | None], center: float) -> Feature:
        return Feature(name, "log10 s", -6.0, 2.0, meaning, lambda v: log_seconds(extract(v)), center=center, scale=1.0)

    return [
        seconds("rtt", "shortest exchange so far; -6 before the first", lambda v: v.estimates.rtt_seconds, -1.5),
        seconds(
            "state_upload",
            "a state's time on the link, in the precision in force; -6 until known",
            HatView.upload_seconds,
            -2.5,
        ),
        seconds("queue", "moving average of the wait in the cloud; -6 before", lambda v: v.estimates.queue_seconds, -2.5),
        seconds("forward", "of any forward, by the cloud's monitor; -6 before", lambda v: v.estimates.forward_seconds, -2.0),
        seconds("forward_token", "and of each token in it; -6 before", lambda v: v.estimates.token_seconds, -3.5),
        seconds("away", "moving average of a draft's way and back; -6 before", lambda v: v.estimates.away_seconds, -1.5),
        seconds(
            "drafting", "moving average of a step of the draft model; -6 before", lambda v: v.estimates.draft_seconds, -2.0
        ),
        Feature(
            "load",
            "requests / 8",
            0.0,
            128.0,
            "waiting or running at the cloud, last hint",
            lambda v: v.estimates.load / 8,
            center=0.25,
        ),
    ]
