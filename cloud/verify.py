"""Checks of drafts, made idempotent over an engine's sessions, and what makes a request a wrong one.

What does not live here: messages and statuses (service.py), the table (sessions.py), acceptance (the engine's).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from cloud.engine.base import Check, Checked, Engine
from cloud.sessions import Session, SessionTable
from runtime.errors import CloudRejectedError, TokenizerMismatchError


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """A check of a session."""

    session_id: str
    seq: int
    """Number of the check in its session, from 1."""
    check: Check


class Verification:
    """Sessions and checks over one engine. All methods run on the engine's event loop."""

    def __init__(self, engine: Engine, table: SessionTable, tokenizer_hash: str, *, max_draft_tokens: int) -> None:
        self.info, self.tokenizer_hash, self.max_draft_tokens = engine.info, tokenizer_hash, max_draft_tokens
        self._engine, self._table = engine, table

    async def open(self, tokenizer_hash: str) -> str:
        """Start a session; return its id.

        Raises:
            TokenizerMismatchError: the device's tokens would mean something else here.
            CloudBusyError: too many sessions.
            CloudUnavailableError: the engine has stopped or died.
        """
        if tokenizer_hash != self.tokenizer_hash:
            raise TokenizerMismatchError(
                f"the device's tokenizer is {tokenizer_hash!r}, that of the cloud's {self.info.model} is {self.tokenizer_hash!r}; use models that share one"
            )
        session = await self._table.open()
        try:
            await self._engine.open(session.session_id)
        except BaseException:
            self._table.remove(session.session_id)
            raise
        return session.session_id

    async def close(self, session_id: str) -> None:
        """Release a session; nothing happens when there is none."""
        await self._table.close(session_id)

    async def verify(self, request: VerifyRequest) -> Checked:
        """Catch up and check a draft; a repeat of the session's last request gets the same result.

        Raises:
            SessionLostError: the session, or some of the history that the request builds on, is not here.
            CloudRejectedError: the request is wrong.
            CloudError: the engine failed, or the server stops.
        """
        session = self._table.get(request.session_id)
        if session.answer is None or request.seq != session.seq:
            if request.seq != session.seq + 1:
                raise CloudRejectedError(
                    f"seq={request.seq} is out of order; this session takes {session.seq} (repeated) or {session.seq + 1} (next)"
                )
            session.seq = request.seq
            session.running += 1
            session.answer = asyncio.create_task(self._verify(session, request.check, session.answer))
            session.answer.add_done_callback(_retrieve)
        # Shielded: when this caller goes away the work goes on, for a repeat to find.
        return await asyncio.shield(session.answer)

    async def _verify(self, session: Session, check: Check, previous: asyncio.Task[Checked] | None) -> Checked:
        try:
            if previous is not None:
                await asyncio.wait([previous])
            self._validate(check)
            return await self._engine.check(session.session_id, check)
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


def check_vocabulary(tokens: Sequence[int], vocab: int) -> None:
    """Do nothing for token ids of a vocabulary.

    Raises:
        CloudRejectedError: one is outside.
    """
    if tokens and not 0 <= min(tokens) <= max(tokens) < vocab:
        wrong = next(token for token in tokens if not 0 <= token < vocab)
        raise CloudRejectedError(f"token {wrong} is outside the LLM's vocabulary of {vocab}; check that the tokenizers agree")


def _retrieve(task: asyncio.Task[Checked]) -> None:
    """Keep asyncio from warning of an error that no caller stayed to see."""
    if not task.cancelled():
        task.exception()
