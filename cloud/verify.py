"""What the verifier does, without gRPC: catch up with a device, check its draft, decode for the baseline.

What does not live here: messages and statuses (service.py), batches (batcher.py), the table (sessions.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from cloud.acceptance import accept_greedy
from cloud.engine.base import EngineInfo, Work
from cloud.engine.embedded.batcher import Batcher, Outcome
from cloud.sessions import Session, SessionTable
from runtime.errors import CloudError, CloudRejectedError, SessionLostError, TokenizerMismatchError


@dataclass(frozen=True, slots=True)
class Verified:
    """Result of a check; fields as in the wire's VerifyResponse."""

    accepted: int
    next_token: int
    queue_ms: float
    compute_ms: float
    compute_share_ms: float
    processed_tokens: int
    load: int


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """A check; fields as on the wire."""

    session_id: str
    seq: int
    prefix_length: int
    context: Sequence[int]
    draft: Sequence[int]


class Verification:
    """Sessions, checks and streams over one engine. All methods run on the event loop that made it."""

    def __init__(
        self, info: EngineInfo, tokenizer_hash: str, table: SessionTable, batcher: Batcher, *, max_draft_tokens: int
    ) -> None:
        self.info, self.tokenizer_hash, self.max_draft_tokens = info, tokenizer_hash, max_draft_tokens
        self._table, self._batcher = table, batcher

    def open(self, tokenizer_hash: str) -> str:
        """Start a session; return its id.

        Raises:
            TokenizerMismatchError: the device's tokens would mean something else here.
            CloudBusyError: too many sessions.
        """
        if tokenizer_hash != self.tokenizer_hash:
            raise TokenizerMismatchError(
                f"the device's tokenizer is {tokenizer_hash!r}, that of the cloud's {self.info.model} is {self.tokenizer_hash!r}; use models that share one"
            )
        return self._table.open().session_id

    def close(self, session_id: str) -> None:
        """Release a session."""
        self._table.close(session_id)

    async def verify(self, request: VerifyRequest) -> Verified:
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
            session.answer = asyncio.create_task(self._verify(session, request, session.answer))
            session.answer.add_done_callback(_retrieve)
        # Shielded: when this caller goes away the work goes on, for a repeat to find.
        return await asyncio.shield(session.answer)

    async def _verify(self, session: Session, request: VerifyRequest, previous: asyncio.Task[Verified] | None) -> Verified:
        try:
            if previous is not None:
                await asyncio.wait([previous])
            history = self._catch_up(session, request)
            tokens = [*history[session.cached :], *request.draft]
            job = _CheckJob(session.session_id, Work(session.cache, session.cached, tokens, len(request.draft) + 1))
            self._batcher.put(job)
            outcome = await job.future
            accepted, next_token = accept_greedy(request.draft, outcome.choices)
            session.cached = len(history) + accepted
            session.history = [*history, *request.draft[:accepted], next_token]
            times = outcome.queue_ms, outcome.compute_ms, outcome.compute_share_ms
            return Verified(accepted, next_token, *times, len(tokens), outcome.load)
        finally:
            session.cache.truncate(session.cached)  # a rejected draft, or what a failed forward left behind
            session.running -= 1
            self._table.renew(session)

    def _catch_up(self, session: Session, request: VerifyRequest) -> list[int]:
        """Check the request and forget what the device took back; return the history that it builds on."""
        prefix, have = request.prefix_length, len(session.history)
        if prefix > have:
            raise SessionLostError(
                f"session {session.session_id!r} holds {have} tokens, not the {prefix} that the request builds on; open a new one and send the whole history"
            )
        if len(request.draft) > self.max_draft_tokens:
            raise CloudRejectedError(
                f"a draft of {len(request.draft)} tokens is too long; send at most {self.max_draft_tokens}"
            )
        length = prefix + len(request.context)
        if not length:
            raise CloudRejectedError("there is no history to continue; send at least one token of context")
        if length + len(request.draft) > self.info.context_tokens:
            raise CloudRejectedError(
                f"{length} tokens of history and {len(request.draft)} of draft exceed the LLM's context of {self.info.context_tokens}; shorten the prompt or end the answer"
            )
        self._check_vocabulary(request.context)
        self._check_vocabulary(request.draft)
        del session.history[prefix:]
        # The last token of the history is always run (again): its choice is what the draft begins with.
        session.cached = min(session.cached, prefix, length - 1)
        session.cache.truncate(session.cached)
        return [*session.history, *request.context]

    def _check_vocabulary(self, tokens: Sequence[int]) -> None:
        if tokens and not 0 <= min(tokens) <= max(tokens) < self.info.vocab:
            wrong = next(token for token in tokens if not 0 <= token < self.info.vocab)
            raise CloudRejectedError(
                f"token {wrong} is outside the LLM's vocabulary of {self.info.vocab}; check that the tokenizers agree"
            )

    async def generate(self, prompt: Sequence[int], max_new_tokens: int) -> AsyncIterator[Outcome]:
        """Decode greedily until EOS, `max_new_tokens` or the end of the context; one outcome a token.

        Raises:
            CloudRejectedError: the prompt is empty, too long or not of this vocabulary, or no token is asked for.
            CloudBusyError: too many sessions.
            CloudError: the engine failed, or the server stops.
        """
        room = min(max_new_tokens, self.info.context_tokens - len(prompt))
        if not prompt or room < 1:
            raise CloudRejectedError(
                f"cannot generate {max_new_tokens} tokens after a prompt of {len(prompt)}; both must be at least 1 and the prompt below the LLM's context of {self.info.context_tokens}"
            )
        self._check_vocabulary(prompt)
        session = self._table.open()
        session.running += 1
        job = _StreamJob(session, prompt, room, frozenset(self.info.eos_ids))
        self._batcher.put(job)
        try:
            while (outcome := await job.results.get()) is not None:
                if isinstance(outcome, CloudError):
                    raise outcome
                yield outcome
        finally:
            job.abandoned = True
            self._table.close(session.session_id)


def _retrieve(task: asyncio.Task[Verified]) -> None:
    """Keep asyncio from warning of an error that no caller stayed to see."""
    if not task.cancelled():
        task.exception()


class _CheckJob:
    """One forward, awaited through a future."""

    def __init__(self, session_id: str, work: Work) -> None:
        self.session_id, self._work = session_id, work
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Outcome] = self._loop.create_future()

    def work(self) -> Work | None:
        return None if self.future.cancelled() else self._work

    def deliver(self, outcome: Outcome) -> bool:
        self._loop.call_soon_threadsafe(self._settle, outcome, None)
        return False

    def fail(self, error: CloudError) -> None:
        self._loop.call_soon_threadsafe(self._settle, None, error)

    def _settle(self, outcome: Outcome | None, error: CloudError | None) -> None:
        if self.future.cancelled():
            return
        if error is not None:
            self.future.set_exception(error)
        elif outcome is not None:
            self.future.set_result(outcome)


class _StreamJob:
    """A forward a token, put back by the engine's thread itself so that streams stay together in a batch."""

    def __init__(self, session: Session, prompt: Sequence[int], room: int, eos_ids: frozenset[int]) -> None:
        self.session_id, self._cache = session.session_id, session.cache
        self._position, self._tokens, self._left, self._eos_ids = 0, tuple(prompt), room, eos_ids
        self._loop = asyncio.get_running_loop()
        self.results: asyncio.Queue[Outcome | CloudError | None] = asyncio.Queue()
        """Outcomes, then an error or None."""
        self.abandoned = False

    def work(self) -> Work | None:
        return None if self.abandoned else Work(self._cache, self._position, self._tokens, 1)

    def deliver(self, outcome: Outcome) -> bool:
        token = outcome.choices[0]
        self._position += len(self._tokens)
        self._tokens, self._left = (token,), self._left - 1
        self._loop.call_soon_threadsafe(self.results.put_nowait, outcome)
        more = self._left > 0 and token not in self._eos_ids
        if not more:
            self._loop.call_soon_threadsafe(self.results.put_nowait, None)
        return more

    def fail(self, error: CloudError) -> None:
        self._loop.call_soon_threadsafe(self.results.put_nowait, error)
