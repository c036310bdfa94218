"""A device's talk with its cloud about one answer: a session, its uploads over the link, and how it heals.

What does not live here: the thread that it runs on (agenda.py), how a session is opened (opening.py), streams (streams.py), numbers
(uploads.py), what the device sees of it (tray.py, middle.py), which answers are believed (runtime/answers.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from runtime.answers import Ran, read_ran
from runtime.client import retry_seconds
from runtime.errors import (
    BadAnswerError,
    CloudBusyError,
    CloudError,
    CloudRejectedError,
    CloudUnavailableError,
    LinkDownError,
    ModelChangedError,
    SessionLostError,
    SettingError,
    SyneraError,
    TokenizerMismatchError,
)
from runtime.hat.agenda import Agenda
from runtime.hat.opening import Opening, Surroundings, Turns
from runtime.hat.streams import Stream, Streams
from runtime.hat.tray import Tray
from runtime.hat.uploads import Sent, Uploads
from runtime.hat.values import Reply
from runtime.wire.sizes import forward_response_bytes, on_the_link
from runtime.wire.tensors import decoded

_LONGEST_WAIT_SECONDS = 2.0  # before a cloud that failed is tried again, unless it says otherwise


class Talk:
    """All methods run on the agenda's thread; see :class:`runtime.hat.middle.RemoteMiddle` for the rules."""

    def __init__(self, around: Surroundings, agenda: Agenda, tray: Tray) -> None:
        self._around, self._agenda, self._tray = around, agenda, tray
        self._client, self._terms, self._clock, self._patience = around.client, around.terms, around.clock, around.patience
        self._opening = Opening(around, Turns(self._at, self._soon), self._opened, self._rest)
        self._uploads = Uploads(self._terms.hidden, self._terms.max_rows)
        self._streams = Streams(self._client, self._told, self._gone)
        self._over = False  # nothing that was begun goes on
        self._usable = False  # there is a session
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
        self._do(self._opening.begin)

    def take(self, sent: Sent, data: bytes, deadline: float) -> None:
        """Send a chunk."""
        if not self._over:
            self._uploads.take(sent, data)
            self._at(deadline, partial(self._late, sent))
            self._do(self._transmit)

    def end(self) -> None:
        """Release everything."""
        self._over = True
        self._agenda.clear()
        self._streams.end()
        self._streams.join()
        self._opening.leave()

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

    def _soon(self, work: Callable[[], None]) -> None:
        self._agenda.put(partial(self._do, work))

    def _radio_at(self, when: float, work: Callable[[Sent], None], sent: Sent) -> None:
        """Have the radio do something with a chunk at a time, unless there is a failure before."""
        epoch = self._epoch
        self._at(when, lambda: work(sent) if epoch == self._epoch else None)

    def _opened(self, seconds: float) -> None:
        self._usable = True
        self._tray.opened(seconds)
        self._uploads.move()
        self._transmit()

    # ------------------------------------------------------------ sending

    def _transmit(self) -> None:
        """Let the radio take the next chunk, if it is free."""
        if self._sending is not None or not self._uploads.waiting or not self._usable or self._resting:
            return
        sent, now = self._uploads.waiting[0], self._clock.now()
        size = self._uploads.size(sent)
        there, self._sending = self._around.uplink(size), sent
        if there is None:
            sent.tries += 1
            self._why = LinkDownError("the emulated link carried no answer in time")
            self._radio_at(now + self._patience.outage_retry_seconds(sent.tries), self._try_again, sent)
            return
        self._uploads.waiting.popleft()
        if sent.own or sent.travelled:
            self._resent_bytes += size
        sent.taken, sent.travelled = now, True
        if self._around.emulator is None:
            self._write(sent)  # and gRPC says when it has left
            return
        self._arrived = max(self._arrived, now + there)
        self._radio_at(self._arrived, self._write, sent)
        self._radio_at(now + max(0.0, there - (self._around.uplink(0) or 0.0)), self._left, sent)

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
        if self._around.emulator is None:
            self._soon(partial(self._has_gone, stream, seq))

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
        self._streams.put(self._uploads.request(sent, self._opening.session_id))
        self._watch()

    # ------------------------------------------------------------ answers

    def _told(self, stream: Stream, said: Any) -> None:
        """A stream was told something, on its thread."""
        self._soon(partial(self._heard, stream, said))

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
        self._came = max(self._came, self._clock.now() + self._around.downlink(down))
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
        reached = sent.written or self._around.emulator is None
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
            self._usable = False
            self._opening.leave()
            if at_once:
                self._rest(error, 0.0)
                return
        elif not isinstance(error, CloudUnavailableError | CloudBusyError):
            raise error
        if self._uploads.unanswered or not self._usable:
            self._rest(error)

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
            self._opening.begin()
