"""Synera's decode loop of one answer, written once for the live and the replayed world, as a stepper.

`begin` drafts the first chunk and gives a decision point; `advance(knobs)` settles the chunk in hand (offload or keep),
drafts the next one and gives the record and the next decision point. While a check is in flight the device drafts on from a
guess of its outcome (ahead.py): what a right guess drafted is the next chunk, or begins it, token by token as waiting would
have made it. What does not live here: models, RPCs, simulated worlds (they are the collaborators) and whoever chooses the knobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from runtime.clock import Clock
from runtime.errors import ContextOverflowError
from runtime.sampling import SampledDraft, Sampling
from runtime.session import Ahead, Cost, Limits, Step
from runtime.synera.ahead import BONUS_MARGIN, Agreement, AheadRun, GuessRule, likeliest
from runtime.synera.chunk import ChunkRecord, DecisionPoint, Draft, DraftToken, Lost, Verdict
from runtime.synera.held import common_prefix
from runtime.synera.knobs import Knobs
from runtime.synera.lens import Lens


class Drafter(Protocol):
    """Proposes tokens; holds the prefix (prompt, committed and draft tokens)."""

    def begin(self, prompt: Sequence[int], sampling: Sampling | None) -> None:
        """Forget everything and start from a prompt; without `sampling` tokens are the likeliest."""
        ...

    def next(self, exit_index: int, exit_margin: float) -> DraftToken:
        """Draft the next token, append it to the prefix, charge its time."""
        ...

    def rollback(self, length: int) -> None:
        """Keep the first `length` tokens of the prefix."""
        ...

    def push(self, token: int) -> None:
        """Append a token that stands."""
        ...

    def next_guessed(self, exit_index: int, exit_margin: float) -> DraftToken | None:
        """As `next`, ahead of a verdict: None where a replay does not know the token, which takes its time all the same."""
        ...

    def push_guessed(self, token: int) -> None:
        """As `push`, ahead of a verdict."""
        ...


class Verifier(Protocol):
    """Has chunks checked by the LLM; one check at a time. A cloud that is lost is an outcome, not an exception."""

    def open(self, prompt_tokens: int) -> None:
        """Start a session without waiting for it."""
        ...

    def probe_seconds(self) -> float | None:
        """Round trip of `open`, once known."""
        ...

    def shut(self) -> bool:
        """Whether a check submitted now would be lost at once, and not even try the cloud."""
        ...

    def submit(self, history: Sequence[int], draft: Sequence[int], sampled: SampledDraft | None) -> None:
        """Send a chunk. `history` is all committed tokens; only what the cloud has not seen travels. None is a greedy draft."""
        ...

    def ready(self) -> bool:
        """Whether `result` would return at once."""
        ...

    def result(self) -> Verdict | Lost:
        """Wait for the verdict, or for the certainty that there will be none."""
        ...

    def known_at(self) -> float:
        """When the last result was known here, on the session's clock."""
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
        self,
        drafter: Drafter,
        verifier: Verifier,
        clock: Clock,
        energy: EnergyModel,
        lens: Lens,
        limits: Limits,
        guess: GuessRule = likeliest,
        sampling: Sampling | None = None,
    ) -> None:
        """Put the collaborators together.

        Args:
            drafter: proposes tokens.
            verifier: has them checked.
            clock: times everything.
            energy: what the device's time and radio cost.
            lens: tells how important a chunk is.
            limits: when an answer ends.
            guess: guesses how a check ends.
            sampling: how tokens are drawn; None decodes greedily. Its seed is that of each answer begun here.
        """
        self._guess, self._sampling = guess, sampling
        self._drafter, self._verifier, self._clock = drafter, verifier, clock
        self._energy, self._lens, self._limits = energy, lens, limits
        self._prompt: tuple[int, ...] = ()
        self._room = 0  # most tokens of the answer
        self._answer: list[int] = []
        self._records: list[ChunkRecord] = []
        self._draft: Draft | None = None
        self._ahead: list[DraftToken] = []  # what begins the next chunk, as it was drafted ahead
        self._agreement = Agreement()
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
        self._room, self._ahead, self._agreement = self._limits.room(len(prompt)), [], Agreement()
        self._began = self._clock.now()
        self._verifier.open(len(prompt))
        self._drafter.begin(prompt, self._sampling)
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
        return self._room - len(self._answer)

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
            cloud_shut=self._verifier.shut(),
        )

    def _draft_chunk(self, knobs: Knobs) -> Draft:
        began, tokens, self._ahead = self._clock.now(), self._ahead, []
        most = min(knobs.draft_length, self._left)
        while not self._full(tokens, most):
            tokens.append(self._drafter.next(knobs.exit_index, knobs.exit_margin))
        return Draft(tuple(tokens), self._lens.importance_quantile(tokens), self._clock.now() - began)

    def _full(self, tokens: Sequence[DraftToken | None], most: int) -> bool:
        """Whether nothing is drafted after these."""
        return len(tokens) >= most or bool(tokens and tokens[-1] and tokens[-1].token in self._limits.eos_ids)

    def _settle(self, draft: Draft, knobs: Knobs) -> ChunkRecord:
        sent = self._clock.now()
        reply: Verdict | Lost | None = None
        run: AheadRun | None = None
        if knobs.wants_offload(draft.confidence, draft.importance, len(self._records) + 1, self._offloaded):
            self._offloaded += 1
            sampled = None if self._sampling is None else SampledDraft(self._sampling, draft.proposals)
            self._verifier.submit((*self._prompt, *self._answer), draft.ids, sampled)
            run = self._draft_ahead(draft, knobs)
            reply = self._verifier.result()
        waited = self._clock.now() - sent if reply is not None else 0.0
        verdict = reply if isinstance(reply, Verdict) else None
        committed = self._commit(draft, verdict, run, knobs)
        now = self._clock.now() - self._began
        return ChunkRecord(
            knobs=knobs,
            cost=self._cost(draft, waited, reply, run, now - (self._records[-1].committed_at if self._records else 0.0)),
            committed=committed,
            committed_at=now,
            offloaded=reply is not None,
            judged=len(draft.tokens) if verdict else 0,
            accepted=verdict.accepted if verdict else 0,
            error=str(reply.error) if isinstance(reply, Lost) else None,
            ahead=self._sum_up(run, committed, sent + waited),
            draft=draft,
            verdict=verdict,
        )

    def _draft_ahead(self, draft: Draft, knobs: Knobs) -> AheadRun | None:
        """Draft the next chunk on from a guess, until it is whole or the verdict is there; None where no guess is worth it."""
        if knobs.draft_ahead >= 1.0 or self._verifier.ready():
            return None
        guess = self._guess(draft, self._agreement)
        ends = not self._limits.eos_ids.isdisjoint((*draft.ids[: guess.accepted], guess.correction))
        most = min(knobs.draft_length, self._left - guess.accepted - 1)
        if guess.probability < knobs.draft_ahead or ends or most < 1:
            return None
        self._drafter.rollback(len(self._prompt) + len(self._answer) + guess.accepted)
        run = AheadRun(guess, draft.ids[: guess.accepted])
        if guess.correction is None:
            most += 1
            self._add(run, knobs.exit_index, min(knobs.exit_margin, BONUS_MARGIN))
        else:
            run.assumed += (guess.correction,)
            self._drafter.push_guessed(guess.correction)
        while not self._full(run.tokens, most) and not (run.tokens and self._verifier.ready()):
            self._add(run, knobs.exit_index, knobs.exit_margin)
        return run

    def _add(self, run: AheadRun, exit_index: int, exit_margin: float) -> None:
        began = self._clock.now()
        run.tokens.append(self._drafter.next_guessed(exit_index, exit_margin))
        run.seconds.append(self._clock.now() - began)

    def _commit(self, draft: Draft, verdict: Verdict | None, run: AheadRun | None, knobs: Knobs) -> tuple[int, ...]:
        """Add what stands to the answer and bring the drafter to it; without a verdict the draft stands."""
        chosen = draft.ids if verdict is None else (*draft.ids[: verdict.accepted], verdict.next_token)
        committed = self._limits.cut(chosen, self._left)
        start, left = len(self._prompt) + len(self._answer), self._left - len(committed)
        if verdict is not None:
            self._agreement.saw(draft, verdict.accepted)
        if run is not None and left and committed[-1] not in self._limits.eos_ids:
            self._ahead = run.follows(committed)[: min(knobs.draft_length, left)]
        stands = (*committed, *(t.token for t in self._ahead))
        held = draft.ids if run is None else run.held
        same = common_prefix(held, stands)
        self._drafter.rollback(start + same)
        for token in stands[same:]:
            self._drafter.push(token)
        self._answer.extend(committed)
        return committed

    def _sum_up(self, run: AheadRun | None, committed: Sequence[int], ended: float) -> Ahead | None:
        if run is None:
            return None
        late = max(0.0, ended - self._verifier.known_at())
        return run.record(len(self._ahead), committed, late, lambda seconds: self._energy.joules(seconds, 0.0, 0))

    def _cost(self, draft: Draft, waited: float, reply: Verdict | Lost | None, run: AheadRun | None, seconds: float) -> Cost:
        up, down = (reply.uplink_bytes, reply.downlink_bytes) if reply is not None else (0, 0)
        ahead = sum(run.seconds) if run is not None else 0.0
        busy, idle = draft.seconds + ahead, max(0.0, waited - ahead)
        return Cost(
            seconds=seconds,
            device_seconds=busy,
            wait_seconds=idle,
            cloud_seconds=reply.cloud_seconds if isinstance(reply, Verdict) else 0.0,
            cloud_tokens=reply.cloud_tokens if isinstance(reply, Verdict) else 0,
            joules=self._energy.joules(busy, idle, up + down),
            uplink_bytes=up,
            downlink_bytes=down,
        )
