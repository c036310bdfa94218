"""The values of a HAT session: draft tokens, what is uploaded and what comes back, what is known at a decision, and a step's record.

What does not live here: the loop that makes them (session.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from runtime.errors import CloudError
from runtime.hat.knobs import Knobs
from runtime.session import StepRecord
from runtime.values import value


@value(eq=False)
class DraftToken:
    """One token that the device's draft model proposes."""

    token: int
    confidence: float
    """Top-1 probability."""
    margin: float
    """Top-1 minus top-2 probability."""
    candidates: tuple[int, ...]
    """The likeliest tokens at its place, itself first."""


@value(eq=False)
class Upload:
    """A chunk of states for the cloud: of the prompt, or of the last token and a draft."""

    prefix_length: int
    """Positions that the cloud holds already, and keeps."""
    rows: int
    """Positions that follow."""
    states: Any
    """Their states as they leave the first layers; a replay has none."""
    returned: int
    """Results wanted, of the last so many positions."""
    precision: str


@value(eq=False)
class Reply:
    """What the cloud made of an upload, and what that took."""

    states: Any
    """As they leave the middle layers, of the positions asked for; a replay has none."""
    queue_seconds: float
    compute_seconds: float
    """Duration of the forwards that it was in."""
    cloud_seconds: float
    """Its share of them, by tokens."""
    cloud_tokens: int
    network_seconds: float
    """From when the radio took it to when its answer was here, less the cloud's own time."""
    uplink_bytes: int
    downlink_bytes: int
    forward_seconds: float
    """By the cloud's monitor: what any forward takes."""
    token_seconds: float
    """And each token in it."""
    load: int
    resent_bytes: int = 0
    """Sent once more because an earlier try came to nothing."""


@value()
class Lost:
    """Why the cloud gave no answer, in time and by all means."""

    error: CloudError


class Estimates(NamedTuple):
    """What a device has measured of its link and its cloud, as moving averages (HAT's weigh the past 0.8); see estimates.py."""

    rtt_seconds: float | None
    """The shortest exchange so far; None before the first."""
    uplink_bytes_per_second: float | None
    """None before the first upload that is large enough to tell."""
    queue_seconds: float
    forward_seconds: float
    token_seconds: float
    away_seconds: float | None
    """From a draft's upload to its answer; None before the first."""
    draft_seconds: float | None
    """A step of the draft model; None before the first."""
    load: int


@value(eq=False)
class DecisionPoint:
    """What is known when knobs are chosen for the next upload."""

    prompt_tokens: int
    prompt_left: int
    """Tokens of the prompt that have not been sent; 0 once answers come."""
    generated_tokens: int
    max_new_tokens: int
    """Most tokens of this answer."""
    ahead: tuple[DraftToken, ...]
    """What the next draft begins with, as it was drafted while the last one was away."""
    precision: int | None
    """In force from the first decision on; None before it."""
    state_bytes: tuple[int, ...]
    """Bytes of a state that travels, by precision."""
    estimates: Estimates


@dataclass(frozen=True, slots=True, kw_only=True)
class HatRecord(StepRecord):
    """How one upload ended: a chunk of the prompt, or a draft with the token before it."""

    knobs: Knobs
    prompt_rows: int
    """Of the prompt; 0 for a draft."""
    draft: tuple[DraftToken, ...]
    replies: tuple[Reply, ...]
    """Answers that came during the step, also to earlier chunks."""
    first_token: bool
    """The answer had no token before this step ended: its seconds are part of the time to first token."""

    @property
    def drafted(self) -> tuple[int, ...]:
        """Tokens that the device proposed."""
        return tuple(token.token for token in self.draft)

    @property
    def confidence(self) -> float:
        """Of the least confident draft token; 1 without a draft."""
        return min((token.confidence for token in self.draft), default=1.0)
