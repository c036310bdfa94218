"""Synera's decode loop of one answer, written once for the live and the replayed world, as a stepper.

`begin` drafts the first chunk and gives a decision point; `advance(knobs)` settles the chunk in hand (offload or keep),
drafts the next one and gives the record and the next decision point. What does not live here: models, RPCs, simulated
worlds (they are the collaborators) and whoever chooses the knobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runtime.clock import Clock
from runtime.errors import ContextOverflowError
from runtime.session import Cost, Limits, Step
from runtime.synera.chunk import ChunkRecord, DecisionPoint, Draft, DraftToken, Lost, Verdict
from runtime.synera.knobs import Knobs
from runtime.synera.lens import Lens


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
    """Has chunks checked by the LLM; one check at a time. A cloud that is lost is an outcome, not an exception."""

    def open(self, prompt_tokens: int) -> None:
        """Start a session without waiting for it."""
        ...

    def probe_seconds(self) -> float | None:
        """Round trip of `open`, once known."""
        ...

    def submit(self, history: Sequence[int], draft: Sequence[int]) -> None:
        """Send a chunk. `history` is all committed tokens; only what the cloud has not seen travels."""
        ...

    def result(self) -> Verdict | Lost:
        """Wait for the verdict, or for the certainty that there will be none."""
        ...

    def close(self) -> None:
        """Release the session."""
        ...


class EnergyModel(Protocol):
    """The part of a device profile that the session needs."""

    def joules(self, busy_seconds: float, wait_seconds: float, radio_bytes: int) -> float:
        """Energy of a step."""
        ...


class Session:
    """Implements :class:`runtime.session.Stepper`; see the module docstring."""

    def __init__(
        self, drafter: Drafter, verifier: Verifier, clock: Clock, energy: EnergyModel, lens: Lens, limits: Limits
    ) -> None:
        self._drafter, self._verifier, self._clock = drafter, verifier, clock
        self._energy, self._lens, self._limits = energy, lens, limits
        self._prompt: tuple[int, ...] = ()
        self._answer: list[int] = []
        self._records: list[ChunkRecord] = []
        self._draft: Draft | None = None
        self._offloaded = 0
        self._began = 0.0

    @property
    def records(self) -> Sequence[ChunkRecord]:
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
        self._draft = None  # nothing of an earlier answer goes on, also when this one cannot begin
        if not prompt or len(prompt) >= self._limits.context:
            raise ContextOverflowError(
                f"a prompt of {len(prompt)} tokens does not fit: it must have between 1 and {self._limits.context - 1} (the models' context is {self._limits.context})"
            )
        self._prompt, self._answer, self._records, self._offloaded = tuple(prompt), [], [], 0
        self._began = self._clock.now()
        self._verifier.open(len(prompt))
        self._drafter.begin(prompt)
        return self._next_point(knobs)

    def advance(self, knobs: Knobs) -> Step[DecisionPoint, ChunkRecord]:
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
        if self._answer[-1] in self._limits.eos_ids or self._left == 0:
            return Step(record, None)
        return Step(record, self._next_point(knobs))

    def close(self) -> None:
        """Release the cloud session; the answer and records stay readable."""
        self._draft = None
        self._verifier.close()

    @property
    def _left(self) -> int:
        """Tokens that the answer may still get."""
        return self._limits.room(len(self._prompt)) - len(self._answer)

    def _next_point(self, knobs: Knobs) -> DecisionPoint:
        self._draft = self._draft_chunk(knobs)
        return DecisionPoint(
            draft=self._draft,
            chunk=len(self._records) + 1,
            offloaded=self._offloaded,
            prompt_tokens=len(self._prompt),
            generated_tokens=len(self._answer),
            max_new_tokens=self._limits.room(len(self._prompt)),
            probe_seconds=self._verifier.probe_seconds(),
        )

    def _draft_chunk(self, knobs: Knobs) -> Draft:
        began, tokens = self._clock.now(), []
        for _ in range(min(knobs.draft_length, self._left)):
            tokens.append(self._drafter.next(knobs.exit_index, knobs.exit_margin))
            if tokens[-1].token in self._limits.eos_ids:
                break
        importance = self._lens.importance_quantile([t.attention for t in tokens[1:]], len(tokens))
        return Draft(tuple(tokens), importance, self._clock.now() - began)

    def _settle(self, draft: Draft, knobs: Knobs) -> ChunkRecord:
        sent = self._clock.now()
        reply: Verdict | Lost | None = None
        if knobs.wants_offload(draft.confidence, draft.importance, len(self._records) + 1, self._offloaded):
            self._offloaded += 1
            self._verifier.submit((*self._prompt, *self._answer), draft.ids)
            reply = self._verifier.result()
        waited = self._clock.now() - sent if reply is not None else 0.0
        verdict = reply if isinstance(reply, Verdict) else None
        committed = self._commit(draft, verdict)
        now = self._clock.now() - self._began
        return ChunkRecord(
            knobs=knobs,
            cost=self._cost(draft, waited, reply, now - (self._records[-1].committed_at if self._records else 0.0)),
            committed=committed,
            committed_at=now,
            offloaded=reply is not None,
            judged=len(draft.tokens) if verdict else 0,
            accepted=verdict.accepted if verdict else 0,
            error=str(reply.error) if isinstance(reply, Lost) else None,
            draft=draft,
            verdict=verdict,
        )

    def _commit(self, draft: Draft, verdict: Verdict | None) -> tuple[int, ...]:
        """Add what stands to the answer and bring the drafter to it; without a verdict the draft stands."""
        chosen = draft.ids if verdict is None else (*draft.ids[: verdict.accepted], verdict.next_token)
        committed = self._limits.cut(chosen, self._left)
        if verdict is not None:
            self._drafter.rollback(len(self._prompt) + len(self._answer) + min(verdict.accepted, len(committed)))
            if len(committed) > verdict.accepted:
                self._drafter.push(verdict.next_token)
        self._answer.extend(committed)
        return committed

    def _cost(self, draft: Draft, waited: float, reply: Verdict | Lost | None, seconds: float) -> Cost:
        up, down = (reply.uplink_bytes, reply.downlink_bytes) if reply is not None else (0, 0)
        return Cost(
            seconds=seconds,
            device_seconds=draft.seconds,
            wait_seconds=waited,
            cloud_seconds=reply.cloud_seconds if isinstance(reply, Verdict) else 0.0,
            cloud_tokens=reply.cloud_tokens if isinstance(reply, Verdict) else 0,
            joules=self._energy.joules(draft.seconds, waited, up + down),
            uplink_bytes=up,
            downlink_bytes=down,
        )
