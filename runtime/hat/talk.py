"""A device's talk with its cloud about one answer: a session, its uploads over the link, and how it heals.

What does not live here: the thread that it runs on (agenda.py), streams (streams.py), numbers (uploads.py), what the device sees of it
(tray.py, middle.py), which answers are believed (runtime/answers.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from runtime.answers import Opened, Ran, read_opened, read_ran
from runtime.client import Asked, CloudClient, new_key, retry_seconds
from runtime.clock import Clock
from runtime.errors import (
    BadAnswerError,
    CloudBusyError,
    CloudError,
    CloudRejectedError,
    CloudUnavailableError,
    LateError,
    LinkDownError,
    ModelChangedError,
    SessionLostError,
    SettingError,
    SyneraError,
    TokenizerMismatchError,
)
from runtime.hat.agenda import Agenda
from runtime.hat.patience import Patience
from runtime.hat.streams import Stream, Streams
from runtime.hat.tray import Tray
from runtime.hat.uploads import Sent, Uploads
from runtime.hat.values import Reply
from runtime.link import LinkEmulator
from runtime.settings import shown
from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import forward_response_bytes, on_the_link, open_request_bytes, open_response_bytes
from runtime.wire.tensors import decoded

_LONGEST_WAIT_SECONDS = 2.0  # before a cloud that failed is tried again, unless it says otherwise


class Terms(NamedTuple):
    """What device and cloud agreed on when they met; a cloud that departs from it is lost."""

    tokenizer_hash: str
    fingerprint: str
    """Of the model that is split."""
    hidden: int
    max_rows: int
    """Longest chunk that the cloud takes."""


class Surroundings(NamedTuple):
    """What the talks of a device with its cloud share."""

    client: CloudClient
    terms: Terms
    emulator: LinkEmulator | None
    clock: Clock
    patience: Patience


class Talk:
    """All methods run on the agenda's thread; see :class:`runtime.hat.middle.RemoteMiddle` for the rules."""

    def __init__(self, around: Surroundings, agenda: Agenda, tray: Tray) -> None:
        self._client, self._terms, self._emulator, self._clock, self._patience = around
        self._agenda, self._tray = agenda, tray
        self._uploads = Uploads(self._terms.hidden, self._terms.max_rows)
        self._streams = Streams(self._client, self._told, self._gone)
        self._over = False  # nothing that was begun goes on
        self._session_id = ""  # in the cloud, also before its answer has crossed the link
        self._usable = False  # the session is known here
        self._key = ""  # of an Open that may have been heard though its answer was not
        self._asked_open: Asked | None = None
        self._resting = False  # after a failure
        self._sending: Sent | None = None
        self._epoch = 0  # what the radio was to do before a failure is not done after it
        self._arrived = self._came = 0.0  # when the last message is there, and the last answer here
        self._stirred = 0.0  # when anything was last heard or went away
        self._silent = self._failures = 0  # in a row
        self._watched = False
        self._afresh = self._moved = (
            False  # sessions were left, as the cloud failed in them or had lost them, since the last reply
        )
        self._resent_bytes = 0  # since the last reply
        self._why: SyneraError | None = None  # of the last failure, if nothing was answered since

    # ------------------------------------------------------------ what the device asks for

    def begin(self) -> None:
        """Open a session."""
        self._do(self._open)

    def take(self, sent: Sent, data: bytes, deadline: float) -> None:
        """Send a chunk."""
        if not self._over:
            self._uploads.take(sent, data)
            self._at(deadline, partial(self._late, sent))
            self._do(self._transmit)

    def end(self, released: Callable[[Asked], None]) -> int:
        """Release everything; return how many calls are still about that, each of which is told when it is over."""
        self._over = True
        self._agenda.clear()
        self._streams.end()
        self._streams.join()
        if self._asked_open is not None:
            self._asked_open.cancel()
        # By its key, where the answer to Open got lost.
        request = pb.CloseRequest(session_id=self._session_id, key="" if self._session_id else self._key)
        if not self._session_id and self._asked_open is None:
            return 0
        try:
            self._client.ask("Close", request, self._client.deadlines.close_seconds, released)
        except CloudUnavailableError:  # the client is closed; its lease releases it
            return 0
        return 1

    def fail(self, error: CloudError) -> None:
        """There will be no more answers."""
        self._over = True
        self._agenda.clear()
        self._streams.end()
        self._tray.lose(error)

    # ------------------------------------------------------------ pieces

    def _do(self, work: Callable[[], None]) -> None:
        """Do something, unless the talk is over; what goes wrong for good ends it."""
        if self._over:
            return
        try:
            work()
        except TokenizerMismatchError as other:  # once device and cloud have met, another tokenizer is another model
            self.fail(ModelChangedError(str(other)))
        except SyneraError as error:
            self.fail(error if isinstance(error, CloudError) else CloudError(str(error)))

    def _at(self, when: float, work: Callable[[], None]) -> None:
        self._agenda.at(when, partial(self._do, work))

    def _radio_at(self, when: float, work: Callable[[Sent], None], sent: Sent) -> None:
        """Have the radio do something with a chunk at a time, unless there is a failure before."""
        epoch = self._epoch
        self._at(when, lambda: work(sent) if epoch == self._epoch else None)

    def _uplink(self, size: int) -> float | None:
        return 0.0 if self._emulator is None else self._emulator.uplink(size)

    def _downlink(self, size: int) -> float:
        return 0.0 if self._emulator is None else self._emulator.downlink(size)

    # ------------------------------------------------------------ opening

    def _open(self) -> None:
        self._key = self._key or new_key()
        self._ask_open(self._clock.now(), 0)

    def _ask_open(self, began: float, tries: int) -> None:
        """Ask for a session, over the link."""
        request = pb.OpenRequest(tokenizer_hash=self._terms.tokenizer_hash, key=self._key)
        now, there = self._clock.now(), self._uplink(on_the_link(open_request_bytes(len(self._terms.tokenizer_hash))))
        if there is None:
            again = now + self._patience.outage_retry_seconds(tries + 1)
            self._at(again, partial(self._ask_open, began, tries + 1))
            return

        def answered(done: Asked) -> None:
            self._agenda.put(partial(self._do, partial(self._answered_open, began, done)))

        def ask() -> None:
            self._asked_open = self._client.ask("Open", request, self._patience.open_seconds, answered)

        self._at(now + there, ask)

    def _answered_open(self, began: float, done: Asked) -> None:
        try:
            opened = read_opened(done.answer())
        except (CloudUnavailableError, CloudBusyError) as error:
            if isinstance(error, LateError):
                self._client.avoid(done.channel)
            self._rest(error)
            return
        self._session_id, self._key, self._asked_open = opened.session_id, "", None
        self._at(self._clock.now() + self._downlink(on_the_link(open_response_bytes())), partial(self._opened, began, opened))

    def _opened(self, began: float, opened: Opened) -> None:
        if opened.fingerprint != self._terms.fingerprint:
            raise ModelChangedError(
                f"the verifier now serves the model {shown(opened.fingerprint)}, it began with {shown(self._terms.fingerprint)}; connect again to go on with that one"
            )
        self._usable = True
        self._tray.sessions += 1
        if self._tray.probe_seconds is None:
            self._tray.probe_seconds = self._clock.now() - began
        self._uploads.move()
        self._transmit()

    # ------------------------------------------------------------ sending

    def _transmit(self) -> None:
        """Let the radio take the next chunk, if it is free."""
        if self._sending is not None or not self._uploads.waiting or not self._usable or self._resting:
            return
        sent, now = self._uploads.waiting[0], self._clock.now()
        size = self._uploads.size(sent)
        there, self._sending = self._uplink(size), sent
        if there is None:
            sent.tries += 1
            self._why = LinkDownError("the emulated link carried no answer in time")
            self._radio_at(now + self._patience.outage_retry_seconds(sent.tries), self._try_again, sent)
            return
        self._uploads.waiting.popleft()
        if sent.own or sent.travelled:
            self._resent_bytes += size
        sent.taken, sent.travelled = now, True
        if self._emulator is None:
            self._write(sent)  # and gRPC says when it has left
            return
        self._arrived = max(self._arrived, now + there)
        self._radio_at(self._arrived, self._write, sent)
        self._radio_at(now + max(0.0, there - (self._uplink(0) or 0.0)), self._left, sent)

    def _try_again(self, sent: Sent) -> None:
        if self._sending is sent:
            self._sending = None
            self._transmit()

    def _left(self, sent: Sent) -> None:
        """The last byte has left the radio."""
        if not sent.left and not sent.own:
            sent.left = True
            self._tray.left()
        if self._sending is sent:
            self._sending = None
            self._transmit()

    def _gone(self, stream: Stream, seq: int) -> None:
        """The stream says so, on another thread; an emulated link has its own word."""
        if self._emulator is None:
            self._agenda.put(partial(self._do, partial(self._has_gone, stream, seq)))

    def _has_gone(self, stream: Stream, seq: int) -> None:
        sent = next((each for each in self._uploads.unanswered if each.seq == seq), None)
        if stream in self._streams and sent is not None:
            self._stirred = self._clock.now()
            self._left(sent)

    def _write(self, sent: Sent) -> None:
        if sent not in self._uploads.unanswered:
            return  # it was answered by a stream that it was sent over before
        if self._uploads.expected is None:
            self._stirred = self._clock.now()
        sent.written = True
        self._streams.put(self._uploads.request(sent, self._session_id))
        self._watch()

    # ------------------------------------------------------------ answers

    def _told(self, stream: Stream, said: Any) -> None:
        """A stream was told something, on its thread."""
        self._agenda.put(partial(self._do, partial(self._heard, stream, said)))

    def _heard(self, stream: Stream, said: Any) -> None:
        if stream not in self._streams:
            return
        if isinstance(said, SyneraError):
            self._streams.drop(stream)
            if not (self._streams and isinstance(said, CloudUnavailableError)):
                self._broken(said)
            return
        self._stirred, self._silent = self._clock.now(), 0
        sent = self._uploads.answered(said.seq)
        self._streams.keep(stream)
        longest = self._client.deadlines.forward_seconds
        ran = read_ran(
            said, hidden=self._terms.hidden, precision=sent.precision, returned=sent.returned, longest_seconds=longest
        )
        try:
            states = decoded(ran.states, self._terms.hidden, sent.precision)
        except SettingError as wrong:
            raise BadAnswerError(f"the verifier's answer makes no sense: {wrong}; is it of this version?") from None
        self._left(sent)
        down = on_the_link(forward_response_bytes(sent.seq, sent.returned, self._terms.hidden, sent.precision, ran.load))
        self._came = max(self._came, self._clock.now() + self._downlink(down))
        if not sent.own:
            self._failures, self._afresh, self._moved, self._why = 0, False, False, None
            self._at(self._came, partial(self._deliver, sent, ran, states, down))

    def _deliver(self, sent: Sent, ran: Ran, states: Any, down: int) -> None:
        sent.delivered = True
        resent, self._resent_bytes = self._resent_bytes, 0
        network = self._clock.now() - sent.taken - ran.queue_seconds - ran.compute_seconds
        self._tray.replied(
            Reply(
                states=states,
                queue_seconds=ran.queue_seconds,
                compute_seconds=ran.compute_seconds,
                cloud_seconds=ran.share_seconds,
                cloud_tokens=sent.rows,
                network_seconds=max(0.0, network),
                uplink_bytes=self._uploads.size(sent),
                downlink_bytes=down,
                forward_seconds=ran.forward_seconds,
                token_seconds=ran.token_seconds,
                load=ran.load,
                resent_bytes=resent,
            )
        )

    # ------------------------------------------------------------ what goes wrong

    def _late(self, sent: Sent) -> None:
        """The deadline of an upload has come."""
        if sent.delivered:
            return
        if self._why is not None:
            raise self._why
        reached = sent.written or self._emulator is None
        raise self._client.late_error() if reached else LinkDownError("the emulated link carried no answer in time")

    def _watch(self) -> None:
        """Look at the streams once they have been silent for too long."""
        if not self._watched and self._streams and self._uploads.expected is not None:
            self._watched = True
            self._at(self._patient_until, self._look)

    @property
    def _patient_until(self) -> float:
        return self._stirred + self._patience.silence_seconds(self._silent)

    def _look(self) -> None:
        self._watched = False
        if self._streams and self._uploads.expected is not None and self._clock.now() >= self._patient_until:
            self._stirred, self._silent = self._clock.now(), self._silent + 1
            self._why = self._client.late_error()
            self._streams.begin_another()
            self._send_again()
        self._watch()

    def _send_again(self) -> None:
        """Have the radio begin with the first chunk that is not answered."""
        self._epoch += 1
        self._sending, self._arrived = None, 0.0
        self._uploads.repeat()
        self._transmit()

    def _broken(self, error: SyneraError) -> None:
        """No stream is left, or the session is gone."""
        self._streams.end()
        failed = type(error) is CloudError or isinstance(error, CloudRejectedError)
        if (failed and not self._afresh) or isinstance(error, SessionLostError):
            # It does not hold what was sent, failed, or does not know what it is sent once more: a new one knows nothing of that.
            at_once = not (failed or self._moved)
            self._afresh, self._moved = self._afresh or failed, True
            self._abandon()
            if at_once:
                self._rest(error, 0.0)
                return
        elif not isinstance(error, CloudUnavailableError | CloudBusyError):
            raise error
        if self._uploads.unanswered or not self._usable:
            self._rest(error)

    def _abandon(self) -> None:
        """Leave the session, and have what there is of it released, without waiting for that."""
        request = pb.CloseRequest(session_id=self._session_id)
        self._session_id, self._usable = "", False
        self._client.ask("Close", request, self._client.deadlines.close_seconds, lambda _: None)

    def _rest(self, error: SyneraError, most_seconds: float = _LONGEST_WAIT_SECONDS) -> None:
        """Go on after a while, which grows with each failure in a row."""
        self._epoch += 1
        self._sending, self._resting, self._why = None, True, error
        self._failures += 1
        wait = min(retry_seconds(min(self._failures, 10)), most_seconds)
        if isinstance(error, CloudBusyError) and error.retry_after_seconds is not None:
            wait = max(wait, error.retry_after_seconds)
        self._at(self._clock.now() + wait, self._go_on)

    def _go_on(self) -> None:
        self._resting = False
        if self._usable:
            self._send_again()
        else:
            self._open()
