"""Chunks of hidden states for the middle of a split model, made idempotent over an engine's sessions; and what makes one a wrong one.

What does not live here: messages and statuses (service.py), repeats and turns (numbered.py), the forward (engine/), and the device.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter, deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from cloud.admission import Admission, Ticket
from cloud.engine.base import Chunk, Engine, MiddleInfo, Ran
from cloud.identity import NOBODY, Client
from cloud.kept import AnswerRoom
from cloud.monitor import Estimate, Monitor
from cloud.numbered import Numbered, Piece
from cloud.sessions import Session, SessionTable, check_session_id
from cloud.shared import Shared
from runtime.errors import CloudBusyError, CloudRejectedError, SessionLostError
from runtime.wire.sizes import PRECISIONS, row_bytes

MOST_CHUNKS = 8
"""Chunks of a session that may be there at a time, and of which a repeat gets the same answer; a stream is not read on beyond."""
MOST_STREAMS = 8
"""Streams of a session at a time: a device has two, and others whose end has not been heard of here."""
_MANY_BYTES = 65_536
"""The digest of so long states is made off the event loop."""


@dataclass(frozen=True, slots=True)
class ForwardRequest:
    """A chunk of a session; not looked at yet."""

    session_id: str
    seq: int
    """Number of the chunk in its session, from 1."""
    prefix_length: int
    """Positions held to keep."""
    states: bytes
    """Hidden states of the positions that follow."""
    precision: int
    """Theirs and that of those returned, by its number on the wire: a place in `runtime.wire.sizes.PRECISIONS`."""
    returned: int
    """How many of the last positions' results are wanted."""
    slack_seconds: float | None = None
    """See :class:`cloud.engine.base.Check`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a chunk."""

    seq: int
    ran: Ran
    estimate: Estimate
    """Of forwards, by the last ones."""


class Forwarding:
    """Chunks over one engine's sessions. All methods run on the engine's event loop.

    Of a session the answers of its last `MOST_CHUNKS` chunks are kept, as long as there is room for the answers of all sessions.

    A session's `length` is how far its chunks reach, those that wait included, so that one can be sent before those before it are
    answered; what builds on a chunk of which nothing came is told that its session is lost.

    A stream is one more of its account's streams until its first chunk is there, and then one of the `MOST_STREAMS` of its session. One
    that brings no chunk, the first for as long as an answer may wait to be read and others for as long as a lease, ends.
    """

    def __init__(self, engine: Engine, table: SessionTable, admission: Admission, monitor: Monitor) -> None:
        """Begin with nothing asked.

        Raises:
            SettingError: a session's answers would never have room.
        """
        self._engine, self._table, self._admission, self._monitor, self._info = engine, table, admission, monitor, engine.info
        longest = (
            0 if engine.info.middle is None else engine.info.middle.max_rows * row_bytes(engine.info.middle.hidden, "fp32")
        )
        self.room = AnswerRoom(admission.limits.answer_bytes(longest))
        self._numbered = Numbered[Ran](table, admission, most=MOST_CHUNKS, room=self.room)
        self._streams = Counter[str]()  # of each session that has any

    async def forward(self, requests: AsyncIterator[ForwardRequest], client: Client = NOBODY) -> AsyncGenerator[Answer, None]:
        """Run the chunks of one session as they come; yield their answers in their order.

        Close the iterator when leaving early: chunks that nobody else waits for are dropped then.

        Raises:
            SessionLostError: the session, or some of the prefix that a chunk builds on, or the answer to a repeat, is not here.
            CloudBusyError: there is too much to do, or no chunk came for too long; with when to come back.
            CloudRejectedError: a chunk is wrong, or this verifier serves a whole model.
            CloudError: the engine failed, or the server stops.
        """
        middle = self._middle()
        asked = deque[tuple[int, Shared[Ran]]]()
        come, places = asyncio.Semaphore(0), asyncio.Semaphore(MOST_CHUNKS)

        async def read(stream: _Stream) -> None:
            while True:
                await places.acquire()
                request = await stream.next(requests)
                if request is None:
                    return
                digest = await _digest(request)
                if any(answer.failed for _, answer in asked):
                    return  # what comes behind a failure was sent before that was known
                answer = self._ask(middle, request, digest, client)
                answer.hold()
                asked.append((request.seq, answer))
                come.release()

        with _Stream(self._table, self._admission, self._streams, client) as stream:
            reading = asyncio.create_task(read(stream))
            reading.add_done_callback(lambda _: come.release())
            try:
                while await come.acquire() and asked:
                    seq, answer = asked[0]
                    ran = await self._numbered.result(answer, seq)
                    yield Answer(seq, ran, self._monitor.estimate)
                    asked.popleft()
                    answer.let_go()  # now that it is read
                    places.release()
                reading.result()  # raises what ended it
            finally:
                for _, answer in asked:
                    answer.let_go()
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([reading])
                if not reading.cancelled():
                    reading.exception()  # it may have failed behind what ended this

    def _ask(self, middle: MiddleInfo, request: ForwardRequest, digest: bytes, client: Client) -> Shared[Ran]:
        session = self._table.get(request.session_id, client.name)
        return self._numbered.ask(session, request.seq, digest, lambda: self._piece(session, self._chunk(middle, request)))

    def _piece(self, session: Session, chunk: Chunk) -> Piece[Ran]:
        prefix_length, length = chunk.prefix_length, chunk.prefix_length + chunk.rows
        if prefix_length > session.length:
            raise SessionLostError(
                f"session {session.session_id!r} holds {session.length} positions, not the {prefix_length} that the chunk builds on; open a new one and send all of it"
            )

        def begun() -> None:
            session.length = length

        def undone() -> None:
            session.length = min(session.length, prefix_length)

        came = time.monotonic()

        async def run() -> Ran:
            waited_ms = 1e3 * (time.monotonic() - came)  # for the chunks before it, which the device sent without waiting
            ran = await self._engine.forward(session.session_id, chunk)
            return replace(ran, queue_ms=ran.queue_ms + waited_ms)

        return Piece(chunk.rows, len(chunk.states) // chunk.rows * chunk.returned, run, begun, undone)

    def _chunk(self, middle: MiddleInfo, request: ForwardRequest) -> Chunk:
        """Check what was asked for.

        Raises:
            CloudRejectedError: it is wrong.
        """
        if not 0 <= request.precision < len(PRECISIONS):
            raise CloudRejectedError(f"precision={request.precision} is none; send one of 0..{len(PRECISIONS) - 1}")
        precision, size = PRECISIONS[request.precision], len(request.states)
        row = row_bytes(middle.hidden, precision)
        rows, rest = divmod(size, row)
        if rest:
            raise CloudRejectedError(
                f"{size} bytes of states are no whole rows of {row} ({middle.hidden} numbers in {precision})"
            )
        if not 1 <= rows <= middle.max_rows:
            raise CloudRejectedError(f"a chunk of {rows} rows must have 1..{middle.max_rows}; cut a longer one")
        if request.prefix_length + rows > self._info.context_tokens:
            raise CloudRejectedError(
                f"{rows} positions after {request.prefix_length} exceed the LLM's context of {self._info.context_tokens}; shorten the prompt or end the answer"
            )
        if request.returned > rows:
            raise CloudRejectedError(
                f"returned={request.returned} is more than the {rows} rows of the chunk; ask for at most those"
            )
        return Chunk(request.prefix_length, rows, request.states, precision, request.returned, request.slack_seconds)

    def _middle(self) -> MiddleInfo:
        if self._info.middle is None:
            raise CloudRejectedError(
                "this verifier serves a whole model, which checks drafts of tokens; ask it for Verify, or serve the middle with --split"
            )
        return self._info.middle


class _Stream:
    """Whose session a stream's chunks are of, and its place among the others; from when it is entered until it is left."""

    def __init__(self, table: SessionTable, admission: Admission, streams: Counter[str], client: Client) -> None:
        self._table, self._admission, self._streams, self._client = table, admission, streams, client
        self._session_id: str | None = None
        self._ticket: Ticket | None = None

    def __enter__(self) -> Self:
        self._ticket = self._admission.admit_stream(self._client.account)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._begins()
        if self._session_id is not None:
            self._streams[self._session_id] -= 1
            if not self._streams[self._session_id]:
                del self._streams[self._session_id]

    async def next(self, requests: AsyncIterator[ForwardRequest]) -> ForwardRequest | None:
        """The next chunk, None where there are no more.

        Raises:
            SessionLostError: its session is not here.
            CloudBusyError: none came for too long, or its session has too many streams.
            CloudRejectedError: it is no chunk of a session, or of another than those before it.
        """
        limits = self._admission.limits
        seconds = limits.reader_seconds if self._session_id is None else self._table.lease_seconds
        try:
            async with asyncio.timeout(seconds):
                request = await anext(requests, None)
        except TimeoutError:
            raise CloudBusyError(
                f"no chunk came over this stream for {seconds:g} s, so it ended here; begin another when there is one"
            ) from None
        if request is None:
            return None
        if self._session_id is None:
            self._join(request.session_id)
        elif self._session_id != request.session_id:
            raise CloudRejectedError("a stream carries the chunks of one session; use another for another session")
        return request

    def _join(self, session_id: str) -> None:
        check_session_id(session_id)
        self._table.get(session_id, self._client.name)
        if self._streams[session_id] >= MOST_STREAMS:
            raise CloudBusyError(
                f"this session has {MOST_STREAMS} streams, which is the most; end some, or use one of them",
                self._admission.drain_seconds(),
            )
        self._streams[session_id] += 1
        self._session_id = session_id
        self._begins()

    def _begins(self) -> None:
        """It is no stream any more of which nobody knows what it is for."""
        if self._ticket is not None:
            self._ticket.end()
            self._ticket = None


async def _digest(request: ForwardRequest) -> bytes:
    """What tells one chunk from another [16 bytes], so that a session need not keep what it was asked."""
    sizes = f"{request.prefix_length} {request.precision} {request.returned} ".encode()

    def digest() -> bytes:
        return hashlib.blake2b(sizes + request.states, digest_size=16).digest()

    return await asyncio.to_thread(digest) if len(request.states) > _MANY_BYTES else digest()
