"""Checks of drafts, made idempotent over an engine's sessions, and what makes a request a wrong one.

What does not live here: messages and statuses (service.py), repeats and turns (numbered.py), the table (sessions.py), acceptance (the
engine's).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from cloud.admission import Admission
from cloud.engine.base import Check, Checked, Engine, EngineInfo
from cloud.identity import NOBODY, Client
from cloud.kept import AnswerRoom
from cloud.numbered import Numbered, Piece
from cloud.sessions import Session, SessionTable, check_session_id
from runtime.errors import CloudRejectedError


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """A check of a session."""

    session_id: str
    seq: int
    """Number of the check in its session, from 1."""
    check: Check
    """Not looked at yet: its tokens may be too many, and a message's own."""


class Verification:
    """Checks over one engine's sessions. All methods run on the engine's event loop.

    A check whose callers all went away is dropped, and run again when it is asked for again.
    """

    def __init__(self, engine: Engine, table: SessionTable, admission: Admission, *, max_draft_tokens: int) -> None:
        self.info, self.max_draft_tokens = engine.info, max_draft_tokens
        self._engine, self._table = engine, table
        self._numbered = Numbered[Checked](table, admission, most=1, room=AnswerRoom(0))

    async def verify(self, request: VerifyRequest, client: Client = NOBODY) -> Checked:
        """Catch up and check a draft; a repeat of the session's last request gets the same result.

        Raises:
            SessionLostError: the session, or some of the history that the request builds on, is not here.
            CloudBusyError: another check of the session still runs, or there is too much to do; the session stays as it is.
            CloudRejectedError: the request is wrong, or this verifier checks no drafts.
            CloudError: the engine failed, or the server stops.

        Cancellation: the check is dropped, unless another waits for it.
        """
        check_whole(self.info)
        check_session_id(request.session_id)
        session, check = self._table.get(request.session_id, client.name), request.check
        answer = self._numbered.ask(session, request.seq, _digest(check), lambda: self._piece(session, check))
        return await self._numbered.result(answer, request.seq)

    def _piece(self, session: Session, check: Check) -> Piece[Checked]:
        self._validate(check)
        own = Check(check.prefix_length, tuple(check.context), tuple(check.draft), check.sampled, check.slack_seconds)
        tokens = len(own.context) + len(own.draft) + 1
        return Piece(tokens, 0, lambda: self._engine.check(session.session_id, own))

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


def check_whole(info: EngineInfo) -> None:
    """Do nothing where a whole model is served.

    Raises:
        CloudRejectedError: it is the middle of a split one.
    """
    if info.middle is not None:
        raise CloudRejectedError(
            f"this verifier serves the middle of a split model, all but its first {info.middle.first_layers} and last {info.middle.last_layers} layers; ask it for Forward, or serve the whole model without --split"
        )


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
