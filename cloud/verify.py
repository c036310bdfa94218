"""Checks of drafts, made idempotent over an engine's sessions, and what makes a request a wrong one.

What does not live here: messages and statuses (service.py), the table (sessions.py), acceptance (the engine's).
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from cloud.cost import Cost
from cloud.engine.base import Check, Checked, Engine
from cloud.log import fields
from cloud.sessions import Session, SessionTable, check_key, check_session_id
from runtime.errors import CloudBusyError, CloudRejectedError, SyneraError, TokenizerMismatchError
from runtime.settings import shown

_log = logging.getLogger(__name__)
_Outcome = TypeVar("_Outcome")


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """A check of a session."""

    session_id: str
    seq: int
    """Number of the check in its session, from 1."""
    check: Check
    """Not looked at yet: its tokens may be too many, and a message's own."""


class Verification:
    """Sessions and checks over one engine. All methods run on the engine's event loop."""

    def __init__(self, engine: Engine, table: SessionTable, tokenizer_hash: str, *, max_draft_tokens: int) -> None:
        self.info, self.tokenizer_hash, self.max_draft_tokens = engine.info, tokenizer_hash, max_draft_tokens
        self._engine, self._table = engine, table
        self._keyed: dict[str, asyncio.Task[str]] = {}  # the session of each key, or its opening, as long as it lives

    async def open(self, tokenizer_hash: str, key: str = "", account: str = "") -> str:
        """Start a session; return its id.

        Args:
            tokenizer_hash: the device's.
            key: a repeat with the same one gets the same session, as long as that lives; empty gets another each time.
            account: whom its work is charged to.

        Raises:
            TokenizerMismatchError: the device's tokens would mean something else here.
            CloudRejectedError: that is no key.
            CloudBusyError: too many sessions.
            CloudUnavailableError: the engine has stopped or died.
        """
        if tokenizer_hash != self.tokenizer_hash:
            raise TokenizerMismatchError(
                f"the device's tokenizer is {shown(tokenizer_hash)}, that of the cloud's {self.info.model} is {self.tokenizer_hash!r}; use models that share one"
            )
        if not key:
            return await self._open(account)
        check_key(key)
        self._table.sweep()
        if (opening := self._keyed.get(key)) is None:
            opening = self._keyed[key] = asyncio.create_task(self._open(account, key))
        session_id = await _result(opening)
        if self._keyed.get(key) is opening:  # it has not ended meanwhile
            self._table.get(session_id)
        return session_id

    async def _open(self, account: str, key: str = "") -> str:
        def forget() -> None:
            self._keyed.pop(key, None)

        try:
            session = await self._table.open(forget, account)
        except BaseException:
            forget()
            raise
        try:
            await self._engine.open(session.session_id)
        except BaseException:
            self._table.remove(session.session_id, None)
            raise
        return session.session_id

    async def close(self, session_id: str, key: str = "") -> Cost:
        """Release a session; return what it cost, nothing when there is none (any more).

        Args:
            session_id: its id.
            key: that of its Open, for who never got the id; the id is then not looked at.

        Raises:
            CloudRejectedError: that is no session's id, or no key.
        """
        if key:
            check_key(key)
            opening = self._keyed.get(key)
            if opening is None:
                return Cost()
            try:
                session_id = await _result(opening)
            except SyneraError:
                return Cost()  # it did not come to be
        check_session_id(session_id)
        return await self._table.close(session_id)

    async def verify(self, request: VerifyRequest) -> Checked:
        """Catch up and check a draft; a repeat of the session's last request gets the same result.

        Raises:
            SessionLostError: the session, or some of the history that the request builds on, is not here.
            CloudBusyError: another check of the session still runs; it and the session stay as they are.
            CloudRejectedError: the request is wrong.
            CloudError: the engine failed, or the server stops.
        """
        check_session_id(request.session_id)
        session, asked = self._table.get(request.session_id), _digest(request.check)
        if session.answer is not None and request.seq == session.seq:
            if asked != session.asked:
                raise CloudRejectedError(
                    f"seq={request.seq} was asked before, with other content; a repeat must be the same, and the next check is seq={session.seq + 1}"
                )
            return await _result(session.answer)
        if request.seq != session.seq + 1:
            raise CloudRejectedError(
                f"seq={request.seq} is out of order; this session takes {session.seq} (repeated) or {session.seq + 1} (next)"
            )
        if session.running:
            raise CloudBusyError(f"seq={session.seq} of this session still runs; send seq={request.seq} after its verdict")
        session.seq, session.asked = request.seq, asked
        session.running += 1
        session.answer = asyncio.create_task(self._verify(session, request.check))
        return await _result(session.answer)

    async def _verify(self, session: Session, check: Check) -> Checked:
        try:
            self._validate(check)
            own = Check(check.prefix_length, tuple(check.context), tuple(check.draft), check.sampled)
            checked = await self._engine.check(session.session_id, own)
            session.cost.add(checked)
            return checked
        finally:
            session.running -= 1
            self._table.renew(session)

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


async def _result(answer: asyncio.Task[_Outcome]) -> _Outcome:
    """Wait for a check or an opening; when this caller goes away the work goes on, for a repeat to find."""
    try:
        return await asyncio.shield(answer)
    except asyncio.CancelledError:
        answer.add_done_callback(_unseen)
        raise


def _unseen(answer: asyncio.Task[_Outcome]) -> None:
    """Take the outcome of work whose caller went away, and log it when it is a bug."""
    error = None if answer.cancelled() else answer.exception()
    if error is not None and not isinstance(error, SyneraError):
        _log.error("unwatched work failed", exc_info=error, extra=fields(reason=error))
