"""Numbered requests of sessions: each is run once, in its turn, however often it is asked for.

What does not live here: what is asked and what makes it a wrong request (verify.py, forward.py), the table (sessions.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cloud.admission import Admission
from cloud.cost import Done
from cloud.kept import AnswerRoom, Place
from cloud.openings import lost
from cloud.sessions import Asked, Session, SessionTable
from cloud.shared import Shared
from runtime.errors import CloudBusyError, CloudRejectedError, SessionLostError

_Result = TypeVar("_Result", bound=Done)


@dataclass(frozen=True, slots=True)
class Piece(Generic[_Result]):
    """A request that makes sense."""

    tokens: int
    """That it brings and asks for."""
    answer_bytes: int
    """That its answer takes, as far as it is worth counting."""
    run: Callable[[], Awaitable[_Result]]
    """Has the engine do it."""
    begun: Callable[[], object] = lambda: None
    """Called when it is let in."""
    undone: Callable[[], object] = lambda: None
    """Called where nothing comes of it: it was dropped, or has failed; but not where it went with one before it."""


class Numbered(Generic[_Result]):
    """One kind of request over one engine. All methods run on the engine's event loop.

    Of a session they are run one after the other, and at most `most` are there at a time. So many of the last ones are remembered: a
    repeat gets the same answer, also while it runs. One that nobody waits for any more, nor for any behind it, is dropped, and run
    again when it is asked for again. One that fails takes with it what is behind it, as if that had never been sent.

    Answers that take room may be forgotten for others; who repeats such a request is told that its session is lost, as what it asks for
    could only be made anew by going back.
    """

    def __init__(self, table: SessionTable, admission: Admission, *, most: int, room: AnswerRoom) -> None:
        self._table, self._admission, self._most, self._room = table, admission, most, room

    def ask(self, session: Session, seq: int, digest: bytes, made: Callable[[], Piece[_Result]]) -> Shared[_Result]:
        """Find or begin a request; it is in the caller's hand to wait for it.

        Args:
            session: whose; it is there.
            seq: its number in the session, from 1.
            digest: what tells its content from another's.
            made: checks it and says what to do; asked only where it is to be begun.

        Raises:
            CloudRejectedError: its number does not fit, or its content is another than before; or `made` raised it, after which the
                next number is next.
            CloudBusyError: too many of the session still run, or there is too much to do or to keep; the session stays as it is.
            SessionLostError: its answer was forgotten.
        """
        known = next((each for each in session.asked if each.seq == seq), None)
        if known is None:
            self._check_new(session, seq)
        elif digest != known.digest:
            raise CloudRejectedError(
                f"seq={seq} was asked before, with other content; a repeat must be the same, and the next is seq={session.seq + 1}"
            )
        elif known.forgotten:
            raise SessionLostError(
                f"the answer to seq={seq} had to make way for others; open a new session and send the whole history, or have answers kept for longer with a larger --max-answer-bytes"
            )
        elif known.answer is not None and not known.answer.dropped:
            return known.answer
        elif any(each.seq > seq and _counts(each) for each in session.asked):
            raise CloudRejectedError(
                f"seq={seq} was given up, and the session has gone on since; the next is seq={session.seq + 1}"
            )
        return self._begin(session, known or Asked(seq, digest, None), made)

    async def result(self, answer: Shared[_Result], seq: int) -> _Result:
        """Wait for what was asked.

        Raises:
            SessionLostError: the session ended meanwhile.
            CloudError: the engine failed, or the server stops.

        Cancellation: it is dropped, unless another waits for it.
        """
        result = await answer.result()
        if result is None:
            raise lost(f"it ended while seq={seq} of it ran")
        return result

    def _check_new(self, session: Session, seq: int) -> None:
        if seq != session.seq + 1:
            first = session.asked[0].seq if session.asked else 0
            known = f"{first}..{session.seq}" if first < session.seq else f"{session.seq}"
            raise CloudRejectedError(
                f"seq={seq} is out of order; this session takes {known} (repeated) or {session.seq + 1} (next)"
            )
        if len(session.asked) == self._most and _runs(oldest := session.asked[0]):
            raise CloudBusyError(
                f"seq={oldest.seq} of this session still runs; send seq={seq} after its answer", self._admission.drain_seconds()
            )

    def _begin(self, session: Session, asked: Asked, made: Callable[[], Piece[_Result]]) -> Shared[_Result]:
        try:
            piece = made()
        except CloudRejectedError:
            self._remember(session, asked)
            raise
        ticket = self._admission.admit(session.owner.account, piece.tokens)
        try:
            place = self._place(session, asked, piece.answer_bytes)
        except CloudBusyError as busy:
            ticket.worked(0)
            raise self._admission.hinted(busy) from None
        before = next((each.answer for each in reversed(session.asked) if each.seq < asked.seq and _runs(each)), None)
        if before is not None:
            before.hold()  # what is behind it needs it

        def ended(result: _Result | None) -> None:
            ticket.worked(None if result is None else result.processed_tokens)
            session.running -= 1
            if before is not None:
                before.let_go()
            if result is not None:
                session.cost.add(result)
                self._table.renew(session, used=True)
            elif answer.failed and not answer.dropped and asked in session.asked:
                session.asked = [each for each in session.asked if each.seq <= asked.seq]
                piece.undone()
            if place is not None:
                (place.changed if result is not None else place.leave)()

        watched = place.changed if place is not None else lambda: None
        answer = asked.answer = Shared(self._run(session, before, piece), ended, piece.undone, watched)
        if place is not None:
            place.answer = answer
        piece.begun()
        session.running += 1
        self._remember(session, asked)
        return answer

    def _place(self, session: Session, asked: Asked, size_bytes: int) -> Place | None:
        """Take the room of an answer.

        Raises:
            CloudBusyError: there is none.
        """
        if not size_bytes:
            asked.place = None
            return None

        def forget() -> None:
            if asked.place is place:  # and it was not begun anew since
                asked.answer, asked.forgotten = None, True

        place = asked.place = self._room.take(session.owner.account, size_bytes, forget)
        return place

    def _remember(self, session: Session, asked: Asked) -> None:
        if asked not in session.asked:
            session.asked.append(asked)
            for each in session.asked[: -self._most]:
                each.leave()
            del session.asked[: -self._most]

    async def _run(self, session: Session, before: Shared[_Result] | None, piece: Piece[_Result]) -> _Result:
        if before is not None:
            await before.ended()
            if before.value is None:
                raise SessionLostError("nothing came of the request before it; open a new session and send the whole history")
        async with session.turn:  # one that was dropped may still be ending
            try:
                return await piece.run()
            except CloudBusyError as busy:
                raise self._admission.hinted(busy) from None


def _counts(asked: Asked) -> bool:
    """Whether the session went on by it."""
    return asked.forgotten or (asked.answer is not None and not asked.answer.dropped)


def _runs(asked: Asked) -> bool:
    return asked.answer is not None and not (asked.answer.over or asked.answer.dropped)
