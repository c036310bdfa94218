"""The live middle: a device's states to the cloud and back, over a stream of a thread's own, healed where it breaks.

What does not live here: what states are of (ends.py, session.py), single calls and their errors (runtime/client.py), which answers are
believed (runtime/answers.py).
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc

from runtime.answers import Opened, read_opened, read_ran
from runtime.client import Asked, CloudClient, new_key, retry_seconds
from runtime.clock import Clock, RealClock
from runtime.errors import (
    BadAnswerError,
    CloudBusyError,
    CloudError,
    CloudUnavailableError,
    LinkDownError,
    ModelChangedError,
    SessionLostError,
    SyneraError,
)
from runtime.hat.patience import LONGEST_SECONDS, outage_retry_seconds
from runtime.hat.values import Lost, Reply, Upload
from runtime.link import LinkEmulator
from runtime.settings import shown
from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import (
    PRECISIONS,
    forward_request_bytes,
    forward_response_bytes,
    on_the_link,
    open_request_bytes,
    open_response_bytes,
    row_bytes,
)
from runtime.wire.tensors import decoded, encoded

_log = logging.getLogger(__name__)
_SILENT_SECONDS = 5.0  # a stream that has not answered for so long is replaced by another
_OPEN_SECONDS = 5.0  # of one try


class Terms(NamedTuple):
    """What device and cloud agreed on when they met; a cloud that departs from it is lost."""

    tokenizer_hash: str
    fingerprint: str
    """Of the model that is split."""
    hidden: int
    max_rows: int
    """Longest chunk that the cloud takes."""


@dataclass(slots=True, eq=False)
class _Sent:
    """An upload that has not been answered."""

    seq: int
    prefix_length: int
    rows: int
    returned: int
    precision: str
    deadline: float
    own: bool = False
    """It only tells a new session what the one before held; nobody waits for its answer."""
    taken: float = 0.0
    """When the radio took it."""
    written: bool = False
    heard: bool = False
    """Its answer is on its way over the link."""
    tries: int = 0
    """That met an outage."""
    resent_bytes: int = 0


class _Stream:
    """One gRPC stream: what is put goes out, what comes in is told."""

    def __init__(self, client: CloudClient, told: Callable[[Any], None]) -> None:
        self._messages: queue.SimpleQueue[pb.ForwardRequest | None] = queue.SimpleQueue()
        self._call = client.forward(self._outgoing())
        self._reader = threading.Thread(target=self._read, args=(told,), name="states", daemon=True)
        self._reader.start()

    def put(self, message: pb.ForwardRequest) -> None:
        self._messages.put(message)

    def end(self) -> None:
        self._messages.put(None)
        self._call.cancel()

    def join(self) -> None:
        self._reader.join()

    def _outgoing(self) -> Iterator[pb.ForwardRequest]:
        while (message := self._messages.get()) is not None:
            yield message

    def _read(self, told: Callable[[Any], None]) -> None:
        try:
            for answer in self._call:
                told(answer)
            told(CloudUnavailableError("the verifier ended the stream"))
        except grpc.RpcError as error:
            told(error)
        finally:
            self._messages.put(None)


class RemoteMiddle:
    """Implements :class:`runtime.hat.session.Middle`: a thread of its own talks to the cloud, while the device goes on.

    Whatever the cloud does, all uploads are answered in time, or the cloud is lost. The replay mirrors the first three of these rules:

    * The radio takes one upload after the other; the next is taken as soon as the last byte of the one before has left, so that
      transmission and the cloud's work overlap. Without an emulated link nobody can see when that is: it is taken to be when its bytes
      have passed at the rate of the uploads before, or its answer is there.
    * What meets an outage of the emulated link is tried again after 0.2, 0.4, ... 3.2 s, as TCP does.
    * An upload is given 30 s from when it was handed over. Then the cloud is lost.
    * A stream that breaks, or is silent for 5 s, is replaced by another, which repeats what was not answered by the same numbers. A session
      that the cloud does not know any more is replaced by a new one, which is first sent the states of all positions before: they are kept
      here, as they travelled. A busy cloud is asked again when it says.
    * Bytes. A message counts when it is handed over, and each time that it is sent once more; opening and closing do not count.
    """

    def __init__(
        self, client: CloudClient, terms: Terms, *, emulator: LinkEmulator | None = None, clock: Clock | None = None
    ) -> None:
        """Prepare; nothing is sent yet.

        Args:
            client: the channel to the cloud; not closed here.
            terms: what the cloud is held to.
            emulator: of a link that messages cross; None is the network as it is.
            clock: measures round trips and deadlines; None is the real one.
        """
        self._client, self._terms, self._emulator = client, terms, emulator
        self._clock = clock or RealClock()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._changed = threading.Condition()
        # Below: under the lock, as the device and the thread both look.
        self._replies: list[Reply] = []
        self._unanswered = 0
        self._untaken = 0
        self._lost: Lost | None = None
        self._probe: float | None = None
        # Below: the device's.
        self._seq = 0
        self._thread: threading.Thread | None = None
        self._turn = 0
        # Below: the thread's.
        self._timers: list[tuple[float, int, int, Callable[[], None]]] = []
        self._numbers = count()
        self._over = False
        self._forget()

    def _forget(self) -> None:
        self._session_id: str | None = None
        self._key, self._opening = "", False
        self._stream: _Stream | None = None
        self._waiting: deque[_Sent] = deque()  # for the radio
        self._outstanding: deque[_Sent] = deque()  # in the order of their answers
        self._held = bytearray()  # states of all positions, as they travelled
        self._sending: _Sent | None = None
        self._last_seq = 0
        self._arrived = self._came = 0.0  # when the last message was there, and the last answer here
        self._last_heard = 0.0
        self._failures = 0
        self._rate: float | None = None

    @property
    def state_bytes(self) -> tuple[int, ...]:
        """See :class:`runtime.hat.session.Middle`."""
        return tuple(row_bytes(self._terms.hidden, precision) for precision in PRECISIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()

    # ------------------------------------------------------------ the device's thread

    def open(self) -> None:
        """See :class:`runtime.hat.session.Middle`; the session of an earlier answer is released."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._live, name="middle", daemon=True)
            self._thread.start()
        with self._changed:
            self._turn += 1
            self._replies, self._unanswered, self._untaken, self._lost, self._probe = [], 0, 0, None, None
        self._seq = 0
        self._inbox.put(partial(self._begin, self._turn))

    def probe_seconds(self) -> float | None:
        """See :class:`runtime.hat.session.Middle`."""
        return self._probe

    def send(self, upload: Upload) -> int:
        """See :class:`runtime.hat.session.Middle`."""
        self._seq += 1
        data = encoded(upload.states, upload.precision)
        deadline = self._clock.now() + LONGEST_SECONDS
        sent = _Sent(self._seq, upload.prefix_length, upload.rows, upload.returned, upload.precision, deadline)
        with self._changed:
            self._unanswered += 1
            self._untaken += 1
        self._inbox.put(partial(self._take, self._turn, sent, data))
        return self._size(sent)

    def free(self) -> bool:
        """See :class:`runtime.hat.session.Middle`."""
        return self._untaken == 0 or self._lost is not None

    def wait_free(self) -> None:
        """See :class:`runtime.hat.session.Middle`."""
        with self._changed:
            self._changed.wait_for(self.free)

    def ready(self) -> bool:
        """See :class:`runtime.hat.session.Middle`."""
        return self._unanswered == 0 or self._lost is not None

    def wait_ready(self) -> None:
        """See :class:`runtime.hat.session.Middle`."""
        with self._changed:
            self._changed.wait_for(self.ready)

    def replies(self) -> list[Reply]:
        """See :class:`runtime.hat.session.Middle`."""
        with self._changed:
            replies, self._replies = self._replies, []
        return replies

    def lost(self) -> Lost | None:
        """See :class:`runtime.hat.session.Middle`."""
        return self._lost

    def close(self) -> None:
        """See :class:`runtime.hat.session.Middle`: best effort, without waiting for it."""
        if self._thread is not None:
            self._turn += 1
            self._inbox.put(self._release)

    def shutdown(self) -> None:
        """Release the session, and end the thread; the release within its deadline."""
        if self._thread is not None:
            self.close()
            self._inbox.put(self._end)
            self._thread.join()
            self._thread = None

    # ------------------------------------------------------------ the thread

    def _live(self) -> None:
        try:
            self._work()
        except BaseException as error:  # nobody may be left waiting for a thread that is gone
            _log.exception("the thread of a session with the cloud died")
            self._over = True
            self._fail(CloudError(f"a bug in the device: {error!r}; its log says more"))

    def _work(self) -> None:
        while not self._over:
            now = self._clock.now()
            wait = max(0.0, self._timers[0][0] - now) if self._timers else None
            with contextlib.suppress(queue.Empty):
                self._do(self._inbox.get(timeout=wait))
            while self._timers and self._timers[0][0] <= self._clock.now():
                _, _, turn, work = heapq.heappop(self._timers)
                if turn == self._turn:
                    self._do(work)

    def _do(self, work: Callable[[], None]) -> None:
        try:
            work()
        except SyneraError as error:
            self._fail(error if isinstance(error, CloudError) else CloudUnavailableError(str(error)))

    def _at(self, when: float, work: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._numbers), self._turn, work))

    def _post(self, turn: int, work: Callable[[], None]) -> None:
        """Have something done in its turn on the thread; called by any."""
        self._inbox.put(lambda: work() if turn == self._turn else None)

    def _begin(self, turn: int) -> None:
        self._release()
        if turn == self._turn:
            self._open(self._clock.now())

    def _release(self) -> None:
        session_id, stream = self._session_id, self._stream
        self._timers.clear()
        self._forget()
        if stream is not None:
            stream.end()
            stream.join()
        if session_id is not None:
            with contextlib.suppress(SyneraError):  # its lease releases it
                self._client.close_session(session_id)

    def _end(self) -> None:
        self._over = True

    def _fail(self, error: CloudError) -> None:
        """There will be no more answers."""
        with self._changed:
            if self._lost is None:
                self._lost = Lost(error)
            self._changed.notify_all()
        self._timers.clear()
        self._waiting.clear()
        self._outstanding.clear()
        if self._stream is not None:
            self._stream.end()
            self._stream = None

    # ------------------------------------------------------------ opening

    def _open(self, began: float, tries: int = 0) -> None:
        """Ask for a session, over the link."""
        if self._opening and not tries:
            return
        self._opening, self._key = True, self._key or new_key()
        request = pb.OpenRequest(tokenizer_hash=self._terms.tokenizer_hash, key=self._key)
        now = self._clock.now()
        there = self._uplink(on_the_link(open_request_bytes(len(self._terms.tokenizer_hash))))
        if there is None:
            self._at(now + outage_retry_seconds(tries + 1), partial(self._open, began, tries + 1))
            return
        turn = self._turn

        def asked() -> None:
            self._client.ask(
                "Open", request, _OPEN_SECONDS, lambda done: self._post(turn, partial(self._answered_open, began, done))
            )

        self._at(now + there, asked)

    def _answered_open(self, began: float, done: Asked) -> None:
        try:
            opened = read_opened(done.answer())
        except (CloudUnavailableError, CloudBusyError) as error:
            self._opening = False
            self._heal(error)
            return
        came = self._clock.now() + self._downlink(on_the_link(open_response_bytes()))
        self._at(came, partial(self._opened, began, opened))

    def _opened(self, began: float, opened: Opened) -> None:
        if opened.fingerprint != self._terms.fingerprint:
            raise ModelChangedError(
                f"the verifier now serves the model {shown(opened.fingerprint)}, it began with {shown(self._terms.fingerprint)}; connect again to go on with that one"
            )
        self._session_id, self._key, self._opening = opened.session_id, "", False
        if self._probe is None:
            self._probe = self._clock.now() - began
        self._transmit()

    # ------------------------------------------------------------ sending

    def _take(self, turn: int, sent: _Sent, data: bytes) -> None:
        if turn != self._turn or self._lost is not None:
            return
        row = row_bytes(self._terms.hidden, sent.precision)
        del self._held[sent.prefix_length * row :]
        self._held += data
        self._last_seq += 1
        sent.seq = self._last_seq
        self._waiting.append(sent)
        self._outstanding.append(sent)
        self._at(sent.deadline, partial(self._late, sent))
        self._transmit()

    def _transmit(self) -> None:
        """Let the radio take the next upload, if it is free."""
        if self._sending is not None or not self._waiting or self._session_id is None:
            return
        sent, now = self._waiting[0], self._clock.now()
        size = self._size(sent)
        there = self._uplink(size)
        if there is None:
            sent.tries += 1
            self._sending = sent
            self._at(now + outage_retry_seconds(sent.tries), partial(self._try_again, sent))
            return
        self._waiting.popleft()
        sent.taken, self._sending = now, sent
        if self._emulator is None:
            self._write(sent)
            left = size / self._rate if self._rate else LONGEST_SECONDS
        else:
            self._arrived = max(self._arrived, now + there)
            self._at(self._arrived, partial(self._write, sent))
            left = there - (self._uplink(0) or 0.0)
        self._at(now + max(0.0, left), partial(self._left, sent))

    def _try_again(self, sent: _Sent) -> None:
        if self._sending is sent:
            self._sending = None
            self._transmit()

    def _left(self, sent: _Sent) -> None:
        """The last byte has left the radio."""
        if self._sending is not sent:
            return
        self._sending = None
        with self._changed:
            self._untaken = sum(not each.own for each in self._waiting)
            self._changed.notify_all()
        self._transmit()

    def _write(self, sent: _Sent) -> None:
        if sent not in self._outstanding or self._session_id is None:
            return  # the session was replaced meanwhile
        if self._stream is None:
            turn = self._turn
            self._stream = stream = _Stream(self._client, lambda said: self._post(turn, partial(self._heard, stream, said)))
            self._last_heard = self._clock.now()
        row, first = row_bytes(self._terms.hidden, sent.precision), sent.prefix_length
        request = pb.ForwardRequest(
            session_id=self._session_id,
            seq=sent.seq,
            prefix_length=first,
            states=bytes(self._held[first * row : (first + sent.rows) * row]),
            precision=PRECISIONS.index(sent.precision),  # type: ignore[arg-type]
            returned=sent.returned,
        )
        if not any(each.written for each in self._outstanding):
            self._last_heard = self._clock.now()
        sent.written = True
        self._stream.put(request)
        self._at(self._clock.now() + _SILENT_SECONDS, partial(self._look, self._stream))

    # ------------------------------------------------------------ answers

    def _heard(self, stream: _Stream, said: Any) -> None:
        if stream is not self._stream:
            return
        if isinstance(said, grpc.RpcError):
            said = self._client.error_of(said)
        if isinstance(said, SyneraError):
            self._broken(said)
            return
        now = self._last_heard = self._clock.now()
        self._failures = 0
        sent = next((each for each in self._outstanding if each.written and not each.heard), None)
        if sent is None or sent.seq != said.seq:
            raise BadAnswerError(f"the verifier answers chunk {said.seq}, whose turn it is not; is it of this version?")
        sent.heard = True
        ran = read_ran(
            said,
            hidden=self._terms.hidden,
            precision=sent.precision,
            returned=sent.returned,
            longest_seconds=self._client.deadlines.forward_seconds,
        )
        down = on_the_link(forward_response_bytes(sent.seq, sent.returned, self._terms.hidden, sent.precision, ran.load))
        states = decoded(ran.states, self._terms.hidden, sent.precision)
        self._came = max(self._came, now + self._downlink(down))
        self._at(self._came, partial(self._deliver, sent, ran, states, down))

    def _deliver(self, sent: _Sent, ran: Any, states: Any, down: int) -> None:
        self._outstanding.popleft()  # answers come in order
        now = self._clock.now()
        network = max(0.0, now - sent.taken - ran.queue_seconds - ran.compute_seconds)
        if self._emulator is None:
            if network > 0:
                self._rate = self._size(sent) / network
            self._left(sent)
        if sent.own:
            return
        reply = Reply(
            states=states,
            queue_seconds=ran.queue_seconds,
            compute_seconds=ran.compute_seconds,
            cloud_seconds=ran.share_seconds,
            cloud_tokens=sent.rows,
            network_seconds=network,
            uplink_bytes=self._size(sent),
            downlink_bytes=down,
            forward_seconds=ran.forward_seconds,
            token_seconds=ran.token_seconds,
            load=ran.load,
            resent_bytes=sent.resent_bytes,
        )
        with self._changed:
            self._replies.append(reply)
            self._unanswered -= 1
            self._changed.notify_all()

    # ------------------------------------------------------------ what goes wrong

    def _late(self, sent: _Sent) -> None:
        if sent in self._outstanding:
            reached = sent.written or self._emulator is None
            raise self._client.late_error() if reached else LinkDownError("the emulated link carried no answer in time")

    def _look(self, stream: _Stream) -> None:
        """Replace a stream that has said nothing for too long."""
        silent = self._clock.now() - self._last_heard
        if stream is self._stream and any(each.written for each in self._outstanding) and silent >= _SILENT_SECONDS:
            self._broken(self._client.late_error())

    def _broken(self, error: SyneraError) -> None:
        """The stream is over."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.end()
        if isinstance(error, SessionLostError):
            self._session_id = None
        elif not isinstance(error, CloudUnavailableError | CloudBusyError):
            raise error
        if self._outstanding:
            self._heal(error)

    def _heal(self, error: SyneraError) -> None:
        """Try again, after a while that grows with each failure in a row."""
        self._failures += 1
        wait = min(retry_seconds(self._failures), 2.0)
        if isinstance(error, CloudBusyError) and error.retry_after_seconds is not None:
            wait = max(wait, error.retry_after_seconds)
        self._at(self._clock.now() + wait, self._repeat)

    def _repeat(self) -> None:
        """Send what was not answered once more: in a new session with all that was before it."""
        if not self._outstanding and self._session_id is not None:
            return
        if self._session_id is None:
            again = [each for each in self._outstanding if not (each.own or each.heard)]
            first = again[0].prefix_length if again else 0
            before = [
                _Sent(0, start, min(self._terms.max_rows, first - start), 0, again[0].precision, again[0].deadline, own=True)
                for start in range(0, first, self._terms.max_rows)
            ]
            self._outstanding, self._last_seq = deque([*before, *again]), len(before) + len(again)
            for number, each in enumerate(self._outstanding, 1):
                each.seq = number
        counted = next((each for each in self._outstanding if not each.own), None)
        for each in self._outstanding:
            if counted is not None and not each.heard and (each.written or each.own):
                counted.resent_bytes += self._size(each)
            each.written = each.heard
        self._waiting = deque(each for each in self._outstanding if not each.heard)
        self._sending = None
        if self._session_id is None:
            self._opening = False
            self._open(self._clock.now())
        else:
            self._transmit()

    # ------------------------------------------------------------ sizes and the link

    def _size(self, sent: _Sent) -> int:
        hidden = self._terms.hidden
        return on_the_link(
            forward_request_bytes(sent.seq, sent.prefix_length, sent.rows, hidden, sent.precision, sent.returned)
        )

    def _uplink(self, size: int) -> float | None:
        return 0.0 if self._emulator is None else self._emulator.uplink(size)

    def _downlink(self, size: int) -> float:
        return 0.0 if self._emulator is None else self._emulator.downlink(size)
