"""Carries a session's requests to the cloud and its answers back: over an emulated link, if any, and within a deadline.

What does not live here: single calls and their errors (client.py), how long is waited (deadline.py), and what a request is about
(synera/verifier.py).
"""

from __future__ import annotations

import math
import queue
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from runtime.client import RETRIES, Asked, CloudClient, retry_seconds
from runtime.clock import Clock
from runtime.deadline import repeat_at
from runtime.errors import CloudUnavailableError, GivenUpError, LinkDownError
from runtime.link import LinkEmulator

_Said = TypeVar("_Said")
Inbox = queue.SimpleQueue[Any]
"""Of copies whose call is over; anything else only wakes."""


@dataclass(frozen=True, slots=True)
class Message(Generic[_Said]):
    """A request, and how its answer is read."""

    method: str
    """Of the service."""
    request: Any
    link_bytes: int
    """Of the request, on the link."""
    read: Callable[[Any], _Said]
    """Makes values of the answer, or raises what is wrong with it."""
    answer_bytes: Callable[[_Said], int]
    """On the link."""


class Answered(NamedTuple, Generic[_Said]):
    """An answer that came."""

    said: _Said
    seconds: float
    """From the sending of the copy that was answered."""
    repeated: bool
    """It was the second one."""


Wait = Callable[[Inbox, float, int], Any]
"""Waits so many seconds for something to come in, and returns it, or None; the last is how many calls are under way."""


def real_wait(inbox: Inbox, seconds: float, calls: int) -> Any:
    """Let real time pass."""
    try:
        return inbox.get(timeout=seconds)
    except queue.Empty:
        return None


class Courier:
    """Used by one thread at a time; any thread may stop it. What travels is counted.

    A request is sent once more when half of the time until its deadline has passed without an answer, as it is idempotent; the
    answer that is there first counts, the other call is cancelled. The repeat goes over the client's other channel, as on the
    first it would queue behind what TCP is still trying to get through. Over an emulated link both copies count, and each takes
    its own time. A call that is refused is made again instead, three times, while there is time; it does not travel again.
    """

    def __init__(self, clock: Clock, emulator: LinkEmulator | None = None, wait: Wait = real_wait) -> None:
        """Prepare; nothing is sent yet.

        Args:
            clock: of the deadlines.
            emulator: slows messages down as a link would; None is the network as it is.
            wait: see there.
        """
        self.clock, self.emulator, self.wait = clock, emulator, wait
        self.uplink_bytes = self.downlink_bytes = 0
        self.inbox: Inbox = queue.SimpleQueue()
        self.turn = 0
        """How often it was stopped; see `begin`."""
        self._working_turn = 0

    def begin(self, turn: int) -> None:
        """Work on what was asked for after so many stops; it is over once there was another."""
        self._working_turn = turn

    def stop(self) -> None:
        """Have the exchange under way end at once, and all that were asked for before."""
        self.turn += 1
        self.inbox.put(None)

    def check_wanted(self) -> None:
        """Do nothing while somebody waits for what is done.

        Raises:
            GivenUpError: nobody does any more.
        """
        if self._working_turn != self.turn:
            raise GivenUpError("the device no longer waits for this")

    def take_bytes(self) -> tuple[int, int]:
        """Bytes up and down since they were last taken."""
        taken = self.uplink_bytes, self.downlink_bytes
        self.uplink_bytes = self.downlink_bytes = 0
        return taken

    def ask(self, client: CloudClient, message: Message[_Said], deadline: float, *, over_link: bool = True) -> Answered[_Said]:
        """Have a request answered.

        Args:
            client: of the verifier that is asked; the link is the device's, whichever that is.
            message: the request.
            deadline: on the clock; nothing is sent after it.
            over_link: False goes past the emulated link, and counts no bytes.

        Raises:
            LinkDownError: the emulated link carried no answer in time.
            LateError: no answer came in time.
            GivenUpError: it was stopped.
            CloudError: what the cloud answered instead, or that it cannot be reached.
        """
        exchange = _Exchange(self, client, message, deadline, over_link)
        try:
            return exchange.run()
        finally:
            exchange.cancel()


@dataclass(slots=True, eq=False)
class _Copy:
    """One copy of a request."""

    sent: float
    due: float
    """When it is there, or to be called again, or its answer is here; infinity while nobody can tell, and where it got lost."""
    repeated: bool
    call: Asked | None = None
    refusals: int = 0
    failed: bool = False
    answered: bool = False
    said: Any = None


class _Exchange(Generic[_Said]):
    """One request, until an answer is there or the deadline is."""

    def __init__(
        self, courier: Courier, client: CloudClient, message: Message[_Said], deadline: float, over_link: bool
    ) -> None:
        self._courier, self._client, self._message = courier, client, message
        self._deadline, self._over_link = deadline, over_link
        self._copies: list[_Copy] = []
        self._repeat_at = 0.0

    def run(self) -> Answered[_Said]:
        now = self._courier.clock.now()
        self._repeat_at = repeat_at(now, self._deadline)
        while (answered := self._step(now)) is None:
            calls = sum(copy.call is not None and not copy.answered for copy in self._copies)
            until = min(self._deadline, self._repeat_at, *(copy.due for copy in self._copies))
            ended = self._courier.wait(self._courier.inbox, max(0.0, until - now), calls)
            now = self._courier.clock.now()
            if ended in self._copies:  # not one of an exchange before
                self._ended(ended, now)
        return answered

    def cancel(self) -> None:
        for copy in self._copies:
            if copy.call is not None:
                copy.call.cancel()

    def _step(self, now: float) -> Answered[_Said] | None:
        """Do what is due."""
        self._courier.check_wanted()
        for copy in sorted(self._copies, key=lambda each: each.due):
            if copy.due <= now and copy.answered:
                if self._over_link:
                    self._courier.downlink_bytes += self._message.answer_bytes(copy.said)
                return Answered(copy.said, now - copy.sent, copy.repeated)
        if now >= self._deadline:
            raise self._late()
        if not self._copies or now >= self._repeat_at:
            self._send(now)
        for copy in self._copies:
            if copy.due <= now and copy.call is None:
                self._call(copy, now)
        return None

    def _send(self, now: float) -> None:
        repeated = bool(self._copies)
        if repeated:
            self._repeat_at = math.inf
        takes: float | None = 0.0
        if self._over_link:
            self._courier.uplink_bytes += self._message.link_bytes
            if self._courier.emulator is not None:
                takes = self._courier.emulator.uplink(self._message.link_bytes)
        self._copies.append(_Copy(now, math.inf if takes is None else now + takes, repeated))

    def _call(self, copy: _Copy, now: float) -> None:
        elsewhere = copy.repeated and self._copies[0].call is not None
        message, seconds = self._message, self._deadline - now
        copy.due = math.inf
        copy.call = self._client.ask(
            message.method, message.request, seconds, lambda _: self._courier.inbox.put(copy), elsewhere=elsewhere
        )

    def _ended(self, copy: _Copy, now: float) -> None:
        """Take note of a call that is over."""
        assert copy.call is not None
        again = now + retry_seconds(copy.refusals + 1)
        if copy.call.refused and copy.refusals < RETRIES and again < self._deadline:
            copy.call, copy.due, copy.refusals = None, again, copy.refusals + 1
            self._repeat_at = math.inf
            return
        try:
            copy.said = self._message.read(copy.call.answer())
        except CloudUnavailableError:
            copy.failed, copy.due = True, math.inf
            if all(each.failed for each in self._copies):
                raise
            return
        takes = 0.0
        if self._over_link and self._courier.emulator is not None:
            takes = self._courier.emulator.downlink(self._message.answer_bytes(copy.said))
        copy.answered, copy.due = True, now + takes

    def _late(self) -> CloudUnavailableError:
        silent = any(copy.call is not None and not copy.answered for copy in self._copies)
        if silent or self._courier.emulator is None or not self._over_link:
            return self._client.late_error()
        return LinkDownError("the emulated link carried no answer in time")
