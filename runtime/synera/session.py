"""The decode loop of one answer, written once for the live and the replayed world, as a stepper.

`begin` drafts the first chunk and gives a decision point; `advance(knobs)` settles the chunk in hand (offload or keep),
drafts the next one and gives the record and the next decision point. What does not live here: models, RPCs, simulated
worlds (they are the collaborators) and whoever chooses the knobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from runtime.clock import Clock
from runtime.errors import CloudError, ContextOverflowError
from runtime.synera.knobs import Knobs
from runtime.synera.lens import Lens


@dataclass(frozen=True, slots=True, eq=False)
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
    attention: NDArray[np.float32]
    """[8]: attention row of the token before this one (the query that produced it)."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The chunk in hand."""

    tokens: tuple[DraftToken, ...]
    importance: float
    """Quantile in 0..1."""
    seconds: float
    """Time it took to draft."""

    @property
    def ids(self) -> tuple[int, ...]:
        """Token ids."""
        return tuple(t.token for t in self.tokens)

    @property
    def confidence(self) -> float:
        """Of the least confident token."""
        return min(t.confidence for t in self.tokens)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the cloud said of a chunk, and what it cost."""

    accepted: int
    """Draft tokens kept: the longest prefix that equals the LLM's own choices."""
    next_token: int
    """The LLM's token after the accepted ones: the correction, or the bonus when all were accepted."""
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


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class StepRecord:
    """How one chunk was settled."""

    knobs: Knobs
    draft: Draft
    offloaded: bool
    """The chunk was sent to the cloud (also when the cloud then failed)."""
    verdict: Verdict | None
    """None when the chunk was kept, or the cloud failed."""
    error: str | None
    """Why an offloaded chunk got no verdict; the device then kept its draft."""
    committed: tuple[int, ...]
    """Tokens added to the answer."""
    wait_seconds: float
    """From submitting the chunk to its verdict; 0 when kept."""
    committed_at: float
    """Seconds from `begin` to the commit."""
    joules: float
    """Device energy of drafting, waiting and radio, by the device profile."""


@dataclass(frozen=True, slots=True)
class Step:
    """The result of `advance`: the record, and the next decision point unless the answer is done."""

    record: StepRecord
    point: DecisionPoint | None

    @property
    def done(self) -> bool:
        """True when the answer is complete."""
        return self.point is None


class Drafter(Protocol):
    """Proposes tokens; holds the prefix (prompt, committed and draft tokens)."""

    def begin(self, prompt: Sequence[int]) -> None:
        """Forget everything and start from a prompt."""
        ...

    def next(self, exit_index: int, exit_margin: float) -> DraftToken:
        """Draft the next token, append it to the prefix, charge its time."""
        ...

    def rollback(self, length: int) -> None:
        """Keep the first `length` tokens of the prefix."""
        ...

    def push(self, token: int) -> None:
        """Append a token that the cloud chose."""
        ...


class Verifier(Protocol):
    """Has chunks checked by the LLM; one check at a time."""

    def open(self, prompt_tokens: int) -> None:
        """Start a session without waiting for it."""
        ...

    def probe_seconds(self) -> float | None:
        """Round trip of `open`, once known."""
        ...

    def submit(self, history: Sequence[int], draft: Sequence[int]) -> None:
        """Send a chunk. `history` is all committed tokens; only what the cloud has not seen travels.

        Raises:
            CloudError: it could not be sent.
        """
        ...

    def result(self) -> Verdict:
        """Wait for the verdict.

        Raises:
            CloudError: there will be none.
        """
        ...

    def close(self) -> None:
        """Release the session."""
        ...


class EnergyModel(Protocol):
    """The part of a device profile that the session needs."""

    def joules(self, busy_seconds: float, wait_seconds: float, radio_bytes: int) -> float:
        """Energy of a step."""
        ...


@dataclass(frozen=True)
class Limits:
    """When an answer ends."""

    max_new_tokens: int
    eos_ids: frozenset[int]
    context: int
    """Longest prompt plus answer that the models take."""

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} must be at least 1")


class Session:
    """One answer at a time; see the module docstring. Reusable: `begin` starts over."""

    def __init__(
        self, drafter: Drafter, verifier: Verifier, clock: Clock, energy: EnergyModel, lens: Lens, limits: Limits
    ) -> None:
        self._drafter, self._verifier, self._clock = drafter, verifier, clock
        self._energy, self._lens, self._limits = energy, lens, limits
        self._prompt: tuple[int, ...] = ()
        self._answer: list[int] = []
        self._records: list[StepRecord] = []
        self._draft: Draft | None = None
        self._offloaded = 0
        self._began = 0.0

    @property
    def records(self) -> Sequence[StepRecord]:
        """One record a settled chunk."""
        return self._records

    @property
    def answer(self) -> tuple[int, ...]:
        """Committed tokens, without the prompt; ends with an EOS token if the model ended it."""
        return tuple(self._answer)

    def begin(self, prompt: Sequence[int], knobs: Knobs) -> DecisionPoint:
        """Start an answer: open the cloud session, read the prompt, draft the first chunk.

        Args:
            prompt: token ids.
            knobs: exit and draft length of the first chunk.

        Raises:
            ContextOverflowError: the prompt is empty or leaves no room for an answer.
        """
        if not prompt or len(prompt) >= self._limits.context:
            raise ContextOverflowError(
                f"a prompt of {len(prompt)} tokens does not fit: it must have between 1 and {self._limits.context - 1} (the models' context is {self._limits.context})"
            )
        self._prompt, self._answer, self._records, self._offloaded = tuple(prompt), [], [], 0
        self._began = self._clock.now()
        self._verifier.open(len(prompt))
        self._drafter.begin(prompt)
        return self._next_point(knobs)

    def advance(self, knobs: Knobs) -> Step:
        """Settle the chunk in hand by `knobs`, then draft the next one with their exit and draft length.

        Raises:
            RuntimeError: no chunk is in hand (`begin` was not called, or the answer is done).
            UncoveredError: in replay, the step leaves the recorded graph.
        """
        if self._draft is None:
            raise RuntimeError("no chunk in hand: call begin() first, and again after an answer is done")
        record = self._settle(self._draft, knobs)
        self._records.append(record)
        self._draft = None
        if self._answer[-1] in self._limits.eos_ids or len(self._answer) >= self._room:
            return Step(record, None)
        return Step(record, self._next_point(knobs))

    def close(self) -> None:
        """Release the cloud session; the answer and records stay readable."""
        self._draft = None
        self._verifier.close()

    @property
    def _room(self) -> int:
        return min(self._limits.max_new_tokens, self._limits.context - len(self._prompt))

    def _next_point(self, knobs: Knobs) -> DecisionPoint:
        self._draft = self._draft_chunk(knobs)
        return DecisionPoint(
            draft=self._draft,
            chunk=len(self._records) + 1,
            offloaded=self._offloaded,
            prompt_tokens=len(self._prompt),
            generated_tokens=len(self._answer),
            max_new_tokens=self._room,
            probe_seconds=self._verifier.probe_seconds(),
        )

    def _draft_chunk(self, knobs: Knobs) -> Draft:
        began, tokens = self._clock.now(), []
        for _ in range(min(knobs.draft_length, self._room - len(self._answer))):
            tokens.append(self._drafter.next(knobs.exit_index, knobs.exit_margin))
            if tokens[-1].token in self._limits.eos_ids:
                break
        importance = self._lens.importance_quantile([t.attention for t in tokens[1:]], len(tokens))
        return Draft(tuple(tokens), importance, self._clock.now() - began)

    def _settle(self, draft: Draft, knobs: Knobs) -> StepRecord:
        sent = self._clock.now()
        verdict, error = None, None
        offload = knobs.wants_offload(draft.confidence, draft.importance, len(self._records) + 1, self._offloaded)
        if offload:
            self._offloaded += 1
            try:
                self._verifier.submit((*self._prompt, *self._answer), draft.ids)
                verdict = self._verifier.result()
            except CloudError as lost:  # costs quality, never the answer
                error = str(lost)
        waited = self._clock.now() - sent if offload else 0.0
        chosen = draft.ids if verdict is None else (*draft.ids[: verdict.accepted], verdict.next_token)
        committed = self._cut(chosen)
        if verdict is not None:
            self._drafter.rollback(len(self._prompt) + len(self._answer) + min(verdict.accepted, len(committed)))
            if len(committed) > verdict.accepted:
                self._drafter.push(verdict.next_token)
        self._answer.extend(committed)
        radio = verdict.uplink_bytes + verdict.downlink_bytes if verdict else 0
        return StepRecord(
            knobs=knobs,
            draft=draft,
            offloaded=offload,
            verdict=verdict,
            error=error,
            committed=committed,
            wait_seconds=waited,
            committed_at=self._clock.now() - self._began,
            joules=self._energy.joules(draft.seconds, waited, radio),
        )

    def _cut(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """Cut at the first EOS (kept) and at the room left."""
        kept: list[int] = []
        for token in tokens[: self._room - len(self._answer)]:
            kept.append(token)
            if token in self._limits.eos_ids:
                break
        return tuple(kept)
