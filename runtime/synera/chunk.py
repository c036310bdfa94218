"""The values of a Synera session: a draft, what the cloud said of it, what is known at a decision, how a chunk was settled.

What does not live here: the loop that makes them (session.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from runtime.errors import CloudError
from runtime.sampling import Proposal
from runtime.session import StepRecord
from runtime.synera.knobs import Knobs
from runtime.values import value


@value(eq=False)
class DraftToken:
    """One token that the SLM proposes, and what it felt about it."""

    token: int
    exit_index: int
    """The exit it left at."""
    confidence: float
    """Top-1 probability."""
    margin: float
    """Top-1 minus top-2 probability."""
    entropy: float
    """Nats."""
    runner_up: int
    sketch: NDArray[np.float32]
    """[16]: hidden state at the exit on the lens's principal directions."""
    proposal: Proposal | None = None
    """What the token was drawn from; None of a greedy one. The figures above are of the SLM's plain distribution in any case:
    `confidence` is that of its likeliest token, which a drawn one need not be."""


@dataclass(frozen=True)
class Draft:
    """The chunk in hand."""

    tokens: tuple[DraftToken, ...]
    importance: float
    """How likely the LLM rejects a token of it, as a quantile in 0..1; see :meth:`runtime.synera.lens.Lens.importance_quantile`."""
    seconds: float
    """Device time spent on it since the chunk before was settled; what was drafted ahead of that is part of that step's cost."""

    @cached_property
    def ids(self) -> tuple[int, ...]:
        """Token ids."""
        return tuple(t.token for t in self.tokens)

    @property
    def proposals(self) -> tuple[Proposal, ...]:
        """What the tokens were drawn from; none where they were not."""
        return tuple(t.proposal for t in self.tokens if t.proposal is not None)

    @cached_property
    def confidence(self) -> float:
        """Of the least confident token."""
        return min(t.confidence for t in self.tokens)


@value()
class Verdict:
    """What the cloud said of a chunk, and what it took."""

    accepted: int
    """Draft tokens kept: greedily, the longest prefix that equals the LLM's own choices."""
    next_token: int
    """The LLM's token after the accepted ones: the correction (sampling: the recovered token), or the bonus when all were
    accepted."""
    queue_seconds: float
    compute_seconds: float
    """Duration of the batch's forward."""
    cloud_seconds: float
    """This request's share of it."""
    network_seconds: float
    """Round trip minus queue and compute, on the device's clock."""
    cloud_tokens: int
    """Tokens that the LLM processed for this request."""
    uplink_bytes: int
    downlink_bytes: int
    load: float
    """The cloud's load hint: requests waiting or running."""


@value()
class Lost:
    """A check that got no verdict, and what travelled for it nonetheless."""

    error: CloudError
    uplink_bytes: int = 0
    downlink_bytes: int = 0


@value()
class DecisionPoint:
    """What a device knows when it must decide: the draft in hand and where the answer stands."""

    draft: Draft
    chunk: int
    """Number of the chunk in hand, from 1."""
    offloaded: int
    """Chunks offloaded so far."""
    prompt_tokens: int
    generated_tokens: int
    max_new_tokens: int
    probe_seconds: float | None
    """Round trip measured when the session was opened; None until it is known."""
    cloud_shut: bool = False
    """The cloud is being left alone: a check would be lost at once, and would not even try it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkRecord(StepRecord):
    """How one chunk was settled."""

    knobs: Knobs
    draft: Draft
    verdict: Verdict | None = None
    """None when the chunk was kept, or the cloud was lost."""

    @property
    def confidence(self) -> float:
        """Of the draft."""
        return self.draft.confidence

    @property
    def drafted(self) -> tuple[int, ...]:
        """Tokens that the device proposed."""
        return self.draft.ids

    @property
    def sampled(self) -> bool:
        """Its tokens were drawn."""
        return bool(self.draft.proposals)
