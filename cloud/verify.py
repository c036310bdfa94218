"""Checks of drafts, made idempotent over an engine's sessions, and what makes a request a wrong one.

What does not live here: messages and statuses (service.py), the table (sessions.py), acceptance (the engine's).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from cloud.admission import Admission, Ticket
from cloud.cost import Cost
from cloud.engine.base import Check, Checked, Engine
from cloud.identity import NOBODY, Client
from cloud.sessions import Session, SessionTable, check_key, check_session_id
from cloud.shared import Shared
from runtime.errors import CloudBusyError, CloudRejectedError, SessionLostError, SyneraError, TokenizerMismatchError
from runtime.settings import shown

_UNKNOWN = "its id reached nobody"  # how a session ends


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """A check of a session."""

    session_id: str
    seq: int
    """Number of the check in its session, from 1."""
    check: Check
    """Not looked at yet: its tokens may be too many, and a message's own."""


@dataclass(slots=True, eq=False)
class _Opening:
    """A session that is being opened, or has been."""

    work: Shared[Session]
    claims: int = 0
    """Callers that wait for its id, or were given it."""


class Verification:
    """Sessions and checks over one engine. All methods run on the engine's event loop.

    What nobody waits for any more is dropped: a check whose callers all went away, an opening, a session whose id reached
    nobody. A check that was dropped is run again when it is asked for again.
    """

    def __init__(
        self, engine: Engine, table: SessionTable, admission: Admission, tokenizer_hash: str, *, max_draft_tokens: int
    ) -> None:
        self.info, self.tokenizer_hash, self.max_draft_tokens = engine.info, tokenizer_hash, max_draft_tokens
        self._engine, self._table, self._admission = engine, table, admission
        # As long as the session lives, or is being opened: by its owner's name and key, and by its id.
        self._keyed: dict[tuple[str, str], _Opening] = {}
        self._openings: dict[str, _Opening] = {}

    async def open(self, tokenizer_hash: str, key: str = "", client: Client = NOBODY) -> str:
        """Start a session; return its id, which counts as received unless `unsent` says otherwise.

        Args:
            tokenizer_hash: the device's.
            key: a repeat with the same one gets the same session, as long as that lives; empty gets another each time.
            client: who asks; the session and the key are its own.

        Raises:
            TokenizerMismatchError: the device's tokens would mean something else here.
            CloudRejectedError: that is no key.
            CloudBusyError: too many sessions.
            CloudUnavailableError: the engine has stopped or died.

        Cancellation: the session ends, or does not come to be, unless its id is another's, too.
        """
        if tokenizer_hash != self.tokenizer_hash:
            raise TokenizerMismatchError(
                f"the device's tokenizer is {shown(tokenizer_hash)}, that of the cloud's {self.info.model} is {self.tokenizer_hash!r}; use models that share one"
            )
        if key:
            check_key(key)
        self._table.sweep()
        opening = self._keyed.get((client.name, key)) if key else None
        if opening is None or opening.work.dropped:
            opening = self._begin_opening(client, key)
        opening.claims += 1
        try:
            session = await opening.work.result()
        except BaseException:
            self._give_up(opening)
            raise
        if session is None:
            raise _lost("it ended while it was opened")
        if opening.claims > 1:
            self._table.renew(session, used=False)
        return session.session_id

    def unsent(self, session_id: str) -> None:
        """Take back that an id was received: its caller went away before it could be sent."""
        if (opening := self._openings.get(session_id)) is not None:
            self._give_up(opening)

    def _begin_opening(self, client: Client, key: str) -> _Opening:
        session_id = ""

        def ended(session: Session | None) -> None:
            if session is None:
                self._forget_key(client, key, opening)
            elif not opening.claims:
                self._table.remove(session, _UNKNOWN)

        def left() -> None:
            del self._openings[session_id]
            self._forget_key(client, key, opening)

        async def work() -> Session:
            nonlocal session_id
            session = await self._table.open(client, left)
            session_id = session.session_id
            self._openings[session_id] = opening
            session.running += 1  # nobody takes its place before the engine has it
            try:
                await self._engine.open(session.session_id, client.account)
            except BaseException:
                self._table.remove(session, None)
                raise
            finally:
                session.running -= 1
            return session

        opening = _Opening(Shared(work(), ended))
        if key:
            self._keyed[client.name, key] = opening
        return opening

    def _forget_key(self, client: Client, key: str, opening: _Opening) -> None:
        if self._keyed.get((client.name, key)) is opening:  # and not another, begun since
            del self._keyed[client.name, key]

    def _give_up(self, opening: _Opening) -> None:
        """A caller is gone. Who has asked for something of the session got its id in some other way."""
        opening.claims -= 1
        if not opening.claims and opening.work.over and (session := opening.work.value) is not None and not session.seq:
            self._table.remove(session, _UNKNOWN)

    async def close(self, session_id: str, key: str = "", client: Client = NOBODY) -> Cost:
        """Release a session and end its work; return what it cost, nothing when the client has none such (any more).

        Args:
            session_id: its id.
            key: that of its Open, for who never got the id; the id is then not looked at.
            client: who asks.

        Raises:
            CloudRejectedError: that is no session's id, or no key.
        """
        if key:
            check_key(key)
            opening = self._keyed.get((client.name, key))
            if opening is None:
                return Cost()
            try:
                session = await opening.work.result()
            except SyneraError:
                return Cost()  # it did not come to be
            if session is None:
                return Cost()
            session_id = session.session_id
        check_session_id(session_id)
        return await self._table.close(session_id, client.name)

    async def verify(self, request: VerifyRequest, client: Client = NOBODY) -> Checked:
        """Catch up and check a draft; a repeat of the session's last request gets the same result.

        Raises:
            SessionLostError: the session, or some of the history that the request builds on, is not here.
            CloudBusyError: another check of the session still runs, or there is too much to do; the session stays as it is.
            CloudRejectedError: the request is wrong.
            CloudError: the engine failed, or the server stops.

        Cancellation: the check is dropped, unless another waits for it.
        """
        check_session_id(request.session_id)
        session, asked = self._table.get(request.session_id, client.name), _digest(request.check)
        answer = session.answer
        if session.asked and request.seq == session.seq:
            if asked != session.asked:
                raise CloudRejectedError(
                    f"seq={request.seq} was asked before, with other content; a repeat must be the same, and the next check is seq={session.seq + 1}"
                )
        elif request.seq != session.seq + 1:
            raise CloudRejectedError(
                f"seq={request.seq} is out of order; this session takes {session.seq} (repeated) or {session.seq + 1} (next)"
            )
        elif answer is not None and not (answer.over or answer.dropped):
            raise CloudBusyError(
                f"seq={session.seq} of this session still runs; send seq={request.seq} after its verdict",
                self._admission.drain_seconds(),
            )
        else:
            answer = None
        if answer is None or answer.dropped:
            answer = self._begin_check(session, request, asked)
        checked = await answer.result()
        if checked is None:
            raise _lost(f"it ended while seq={request.seq} of it ran")
        return checked

    def _begin_check(self, session: Session, request: VerifyRequest, asked: bytes) -> Shared[Checked]:
        check = request.check
        try:
            self._validate(check)
        except CloudRejectedError:
            session.seq, session.asked, session.answer = request.seq, asked, None
            raise
        ticket = self._admission.admit(session.owner.account, len(check.context) + len(check.draft) + 1)
        own = Check(check.prefix_length, tuple(check.context), tuple(check.draft), check.sampled, check.slack_seconds)
        session.seq, session.asked = request.seq, asked
        session.running += 1
        answer = Shared(self._check(session, own), lambda checked: self._checked(session, ticket, checked))
        session.answer = session.last = answer
        return answer

    async def _check(self, session: Session, check: Check) -> Checked:
        async with session.turn:  # one that was dropped may still be ending
            try:
                return await self._engine.check(session.session_id, check)
            except CloudBusyError as busy:
                raise self._admission.hinted(busy) from None

    def _checked(self, session: Session, ticket: Ticket, checked: Checked | None) -> None:
        ticket.worked(None if checked is None else checked.processed_tokens)
        session.running -= 1
        if checked is not None:
            session.cost.add(checked)
            self._table.renew(session, used=True)

    def _validate(self, check: Check) -> None:
        if len(check.draft) > self.max_draft_tokens:
            raise CloudRejectedError(f"a draft of {len(check.draft)} tokens is too long; send at most {self.max_draft_tokens}")
        length = check.prefix_length + len(check.context)
        if not length:
            raise CloudRejectedError("there is no history to continue; send at least one token of context")
        if length + len(check.draft) > self.info.context_tokens:
            raise CloudRejectedError(
                f"{length} tokens of history and {len(check.draft)} of draft exceed the LLM's context of {self.info.context_tokens}; shorten the prompt or end the answer"
            )
        check_vocabulary(check.context, self.info.vocab)
        check_vocabulary(check.draft, self.info.vocab)
        for proposal in check.sampled.proposals if check.sampled else ():
            check_vocabulary(proposal.ids, self.info.vocab)


def check_vocabulary(tokens: Sequence[int], vocab: int) -> None:
    """Do nothing for token ids of a vocabulary.

    Raises:
        CloudRejectedError: one is outside.
    """
    if tokens and not 0 <= min(tokens) <= max(tokens) < vocab:
        wrong = next(token for token in tokens if not 0 <= token < vocab)
        raise CloudRejectedError(f"token {wrong} is outside the LLM's vocabulary of {vocab}; check that the tokenizers agree")


def _digest(check: Check) -> bytes:
    """What tells one check from another [16 bytes], so that a session need not keep what it was asked."""
    parts = ((check.prefix_length, len(check.context)), check.context, check.draft)
    tokens = b"".join(array("q", part).tobytes() for part in parts)
    return hashlib.blake2b(tokens + repr(check.sampled).encode(), digest_size=16).digest()


def _lost(why: str) -> SessionLostError:
    return SessionLostError(f"no session: {why}; open a new one and send the whole history")
