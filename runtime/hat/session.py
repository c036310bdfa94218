"""HAT's loop of one answer, written once for the live and the replayed world, as a stepper.

A step is an upload. First the prompt goes to the cloud chunk by chunk: a step ends when the radio is free for the next chunk, while the
cloud works on the ones before, and the last one's with the first token. Then each step drafts, uploads the draft with the token before it,
drafts on meanwhile, and commits what the model says (HAT, arXiv 2503.18989). Tokens never leave the device. What does not live here:
models, streams, simulated worlds (parts.py says what they must offer) and whoever chooses the knobs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.clock import Clock
from runtime.errors import ContextOverflowError
from runtime.hat.estimates import Measured
from runtime.hat.knobs import Knobs
from runtime.hat.parts import Ends, EnergyModel, Middle
from runtime.hat.rules import draft_steps
from runtime.hat.values import DecisionPoint, DraftToken, HatRecord, Reply, Upload
from runtime.rules import accept_greedy
from runtime.session import Ahead, Cost, Limits, Step

READ_TOKENS = 64
"""Of the prompt, that the device runs at a time while it waits for its radio; ours. More would keep a radio waiting that is free
again, and fewer read the weights more often."""
ALONE = "the answer ends here, as device-only completion is impossible without the middle layers"
"""Ends the error of a record whose cloud was lost."""


class Session:
    """Implements :class:`runtime.session.Stepper`; see the module docstring.

    Where the cloud is lost the answer ends with what is committed, and the last record says why: without the middle layers no device
    can go on.
    """

    def __init__(
        self,
        ends: Ends,
        middle: Middle,
        clock: Clock,
        energy: EnergyModel,
        limits: Limits,
        last_layers: int = 0,
        returns_all: bool = False,
    ) -> None:
        """Put the collaborators together.

        Args:
            ends: runs what is on the device.
            middle: runs what is not.
            clock: times everything.
            energy: what the device's time and radio cost.
            limits: when an answer ends.
            last_layers: that the device runs behind the middle; where there are any, results of all positions come back.
            returns_all: have them come back in any case, as a plain U shape does.
        """
        self._ends, self._middle, self._clock = ends, middle, clock
        self._energy, self._limits, self._returns_all = energy, limits, returns_all or last_layers > 0
        self._prompt: tuple[int, ...] = ()
        self._answer: list[int] = []
        self._records: list[HatRecord] = []
        self._under_way = False
        self._reset(())

    def _reset(self, prompt: Sequence[int]) -> None:
        self._prompt, self._answer, self._records = tuple(prompt), [], []
        self._sent = self._room = 0  # positions that the cloud was sent and keeps; most tokens of the answer
        self._precision: int | None = None
        self._ahead: tuple[DraftToken, ...] = ()
        self._measured = Measured()
        self._probed = False
        self._began = self._clock.now()
        self._busy = self._ahead_seconds = 0.0
        self._uplink_bytes = 0
        self._back: list[Any] = []  # states that came back and have not been looked at

    @property
    def records(self) -> Sequence[HatRecord]:
        """One record an upload."""
        return self._records

    @property
    def answer(self) -> tuple[int, ...]:
        """Committed tokens, without the prompt; ends with an EOS token if the model ended it."""
        return tuple(self._answer)

    @property
    def lost(self) -> bool:
        """Whether the answer ended because the cloud was lost."""
        return bool(self._records) and self._records[-1].error is not None

    def begin(self, prompt: Sequence[int], knobs: Knobs) -> DecisionPoint:
        """Start an answer: open the cloud session; `knobs` rule nothing, as nothing happens before the first decision.

        Raises:
            ContextOverflowError: the prompt is empty or leaves no room for an answer.
        """
        self._under_way = False  # nothing of an earlier answer goes on, also when this one cannot begin
        if not prompt or len(prompt) >= self._limits.context:
            raise ContextOverflowError(
                f"a prompt of {len(prompt)} tokens does not fit: it must have between 1 and {self._limits.context - 1} (the model's context is {self._limits.context})"
            )
        self._reset(prompt)
        self._room = self._limits.room(len(prompt))
        self._middle.open()
        self._ends.begin(prompt)
        self._under_way = True
        return self._point()

    def advance(self, knobs: Knobs) -> Step[DecisionPoint, HatRecord]:
        """Upload what comes next by `knobs`, and commit what it brings.

        Raises:
            RuntimeError: no answer is under way (`begin` was not called, or the answer is done).
        """
        if not self._under_way:
            raise RuntimeError("no answer is under way: call begin() first, and again after an answer is done")
        if self._precision is None:
            self._precision = knobs.precision
        self._busy, self._uplink_bytes = 0.0, 0
        record = self._send_chunk(knobs) if self._prompt_left else self._send_draft(knobs)
        self._records.append(record)
        ended = bool(self._answer) and (self._answer[-1] in self._limits.eos_ids or len(self._answer) == self._room)
        if record.error is not None or ended:
            self._under_way = False
            return Step(record, None)
        return Step(record, self._point())

    def close(self) -> None:
        """Release the cloud session; the answer and records stay readable."""
        self._under_way = False
        self._middle.close()

    @property
    def _prompt_left(self) -> int:
        return 0 if self._answer else len(self._prompt) - self._sent

    def _point(self) -> DecisionPoint:
        if not self._probed and (seconds := self._middle.probe_seconds()) is not None:
            self._probed = True
            self._measured.probed(seconds)
        return DecisionPoint(
            prompt_tokens=len(self._prompt),
            prompt_left=self._prompt_left,
            generated_tokens=len(self._answer),
            max_new_tokens=self._room,
            ahead=self._ahead,
            precision=self._precision,
            state_bytes=self._middle.state_bytes,
            estimates=self._measured.estimates,
        )

    # ------------------------------------------------------------ the prompt

    def _send_chunk(self, knobs: Knobs) -> HatRecord:
        first, tokens = self._sent, min(knobs.chunk_tokens, self._prompt_left)
        stop, whole = first + tokens, len(self._prompt)
        self._run(lambda: self._ends.read(stop))
        self._upload(first, stop, returned=tokens if self._returns_all else int(stop == whole))
        self._sent, read = stop, stop
        while stop < whole and not self._middle.free():  # the cloud, and the radio, work meanwhile
            if read == whole:
                self._middle.wait_free()
                break
            read = min(whole, read + READ_TOKENS)
            self._run(lambda: self._ends.read(read))  # noqa: B023 - called at once
        if stop == whole:
            if knobs.draft_length:
                self._run(self._ends.ready_to_draft)
            self._middle.wait_ready()
        replies = self._replies()
        committed: tuple[int, ...] = ()
        if stop == whole and self._middle.lost() is None:
            committed = self._commit(whole, self._choices(1))
        return self._record(knobs, replies, committed, prompt_rows=tokens)

    # ------------------------------------------------------------ drafts

    def _send_draft(self, knobs: Knobs) -> HatRecord:
        history = len(self._prompt) + len(self._answer)
        draft = self._draft(knobs)
        stop = history + len(draft)
        self._upload(self._sent, stop, returned=stop - history + 1)
        sent = self._clock.now()
        steps, branches = self._draft_on(knobs, draft)
        self._middle.wait_ready()
        away = self._clock.now() - sent
        replies = self._replies()
        if self._middle.lost() is not None:
            return self._record(knobs, replies, (), draft=draft)
        self._measured.was_away(away)
        accepted, next_token = accept_greedy([token.token for token in draft], self._choices(len(draft) + 1))
        committed = self._commit(history + accepted, (*(token.token for token in draft[:accepted]), next_token))
        ahead = self._told(draft, accepted, next_token, steps, branches) if branches else None
        return self._record(knobs, replies, committed, draft=draft, accepted=accepted, ahead=ahead)

    def _draft(self, knobs: Knobs) -> tuple[DraftToken, ...]:
        most, tokens = min(knobs.draft_length, self._room - len(self._answer) - 1), list[DraftToken]()
        waiting = list(self._ahead)
        began, steps, self._ahead = self._clock.now(), 0, ()

        def full() -> bool:
            if len(tokens) >= most:
                return True
            return bool(tokens) and (tokens[-1].confidence < knobs.draft_threshold or tokens[-1].token in self._limits.eos_ids)

        while not full():
            if waiting:
                tokens.append(waiting.pop(0))
            elif (token := self._run(self._ends.draft)) is not None:
                tokens.append(token)
                steps += 1
            else:
                break
        if waiting:  # longer than these knobs want it
            self._ends.trim(len(waiting))
        self._measured.drafted(self._clock.now() - began, steps)
        return tuple(tokens)

    def _draft_on(self, knobs: Knobs, draft: tuple[DraftToken, ...]) -> tuple[int, int]:
        """Draft from the candidates of the draft's last token until the answer is there; return steps and branches."""
        self._ahead_seconds, steps, estimates = 0.0, 0, self._measured.estimates
        if not knobs.candidates or not draft or self._middle.ready():
            return 0, 0
        most = knobs.draft_length + 1
        if estimates.away_seconds is not None and estimates.draft_seconds:
            most = draft_steps(estimates.away_seconds, 0.0, 0.0, estimates.draft_seconds, most)
        most = min(most, self._room - len(self._answer) - len(draft))
        if most < 1:
            return 0, 0
        branches, busy = self._ends.branch(knobs.candidates), self._busy
        while branches and steps < most and not self._middle.ready():
            self._run(self._ends.step_branches)
            steps += 1
        self._ahead_seconds = self._busy - busy
        return steps, branches if steps else 0

    def _told(self, draft: tuple[DraftToken, ...], accepted: int, next_token: int, steps: int, branches: int) -> Ahead:
        """What became of what was drafted on."""
        kept, last = len(self._ahead), draft[-1]
        in_vain = self._ahead_seconds * (1.0 - kept / max(1, steps * branches))
        hit = kept > 0 or (accepted == len(draft) - 1 and next_token in last.candidates[:branches])
        return Ahead(
            guess=last.candidates[:branches],
            probability=last.confidence,
            hit=hit,
            drafted=steps * branches,
            kept=kept,
            seconds=self._ahead_seconds,
            saved_seconds=kept * self._ahead_seconds / max(1, steps),
            wasted_joules=self._energy.joules(in_vain, 0.0, 0),
        )

    # ------------------------------------------------------------ pieces

    def _upload(self, first: int, stop: int, returned: int) -> None:
        assert self._precision is not None
        states = self._run(lambda: self._ends.states(first, stop))
        precision = Knobs(precision=self._precision).precision_name
        self._uplink_bytes += self._middle.send(Upload(first, stop - first, states, returned, precision))

    def _replies(self) -> tuple[Reply, ...]:
        replies = tuple(self._middle.replies())
        for reply in replies:
            self._measured.replied(reply)
            self._uplink_bytes += reply.resent_bytes
            self._back.append(reply.states)
        return replies

    def _choices(self, wanted: int) -> Sequence[int]:
        """What the model says after the prefix's last so many positions."""
        back, self._back = self._back, []
        chosen: Sequence[int] = self._run(lambda: self._ends.choose(back, wanted))
        return chosen

    def _commit(self, length: int, tokens: Sequence[int]) -> tuple[int, ...]:
        """Keep so many positions, and add what stands, of which the last is new to the prefix."""
        committed = self._limits.cut(tokens, self._room - len(self._answer))
        self._answer.extend(committed)
        self._sent = length
        if committed == tuple(tokens):
            over = committed[-1] in self._limits.eos_ids or len(self._answer) == self._room
            self._ahead = () if over else self._ends.commit(length, tokens[-1])
        return committed

    def _run(self, work: Any) -> Any:
        """Do the device's work, and take its time."""
        began = self._clock.now()
        done = work()
        self._busy += self._clock.now() - began
        return done

    def _record(
        self,
        knobs: Knobs,
        replies: tuple[Reply, ...],
        committed: tuple[int, ...],
        *,
        prompt_rows: int = 0,
        draft: tuple[DraftToken, ...] = (),
        accepted: int = 0,
        ahead: Ahead | None = None,
    ) -> HatRecord:
        lost = self._middle.lost()
        now = self._clock.now() - self._began
        seconds = now - (self._records[-1].committed_at if self._records else 0.0)
        up, down = self._uplink_bytes, sum(r.downlink_bytes for r in replies)
        wait = max(0.0, seconds - self._busy)
        return HatRecord(
            knobs=knobs,
            cost=Cost(
                seconds=seconds,
                device_seconds=self._busy,
                wait_seconds=wait,
                cloud_seconds=sum(r.cloud_seconds for r in replies),
                cloud_tokens=sum(r.cloud_tokens for r in replies),
                joules=self._energy.joules(self._busy, wait, up + down),
                uplink_bytes=up,
                downlink_bytes=down,
            ),
            committed=committed,
            committed_at=now,
            offloaded=True,
            judged=len(draft) if lost is None else 0,
            accepted=accepted,
            error=f"{lost.error}; {ALONE}" if lost is not None else None,
            ahead=ahead,
            prompt_rows=prompt_rows,
            draft=draft,
            replies=replies,
            first_token=len(self._answer) == len(committed),
        )
