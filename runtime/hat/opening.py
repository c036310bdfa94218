"""How a device gets a session of its cloud over the link, and leaves none behind that it was about to get.

What does not live here: when one is opened (talk.py), single calls and their errors (runtime/client.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from runtime.answers import Opened, read_opened
from runtime.client import Asked, CloudClient, new_key
from runtime.clock import Clock
from runtime.errors import CloudBusyError, CloudUnavailableError, LateError, ModelChangedError, SyneraError
from runtime.hat.patience import Patience
from runtime.leftovers import Leftovers
from runtime.link import LinkEmulator
from runtime.settings import shown
from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import on_the_link, open_request_bytes, open_response_bytes


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
    leftovers: Leftovers

    def uplink(self, size_bytes: int) -> float | None:
        """Seconds that a message sent now takes to the cloud over the emulated link, if any; None: it meets an outage."""
        return 0.0 if self.emulator is None else self.emulator.uplink(size_bytes)

    def downlink(self, size_bytes: int) -> float:
        """Seconds that one takes back."""
        return 0.0 if self.emulator is None else self.emulator.downlink(size_bytes)


class Turns(NamedTuple):
    """How something is done on the talk's thread."""

    at: Callable[[float, Callable[[], None]], None]
    """At a time of the clock."""
    soon: Callable[[Callable[[], None]], None]
    """In its turn; called by any thread."""


class Opening:
    """Of one session after the other; a repeat of what was not answered gets the same one."""

    def __init__(
        self, around: Surroundings, turns: Turns, opened: Callable[[float], None], failed: Callable[[SyneraError], None]
    ) -> None:
        """Prepare.

        Args:
            around: see there.
            turns: see there.
            opened: called when a session is there, with the seconds that it took.
            failed: called when there is none for now, with the reason.
        """
        self._around, self._turns, self._opened, self._failed = around, turns, opened, failed
        self.session_id = ""
        """In the cloud, also before its answer has crossed the link."""
        self._key = ""  # of an Open that may have been heard though its answer was not
        self._asked: Asked | None = None

    def begin(self) -> None:
        """Ask for a session."""
        self._key = self._key or new_key()
        self._send(self._around.clock.now(), 0)

    def leave(self) -> None:
        """Have the session released, or what an Open that is under way may make one, as soon as the cloud hears of it."""
        leftovers = self._around.leftovers
        if self.session_id:
            leftovers.add(session_id=self.session_id)
            self.session_id = ""
        elif self._asked is not None:  # the answer to Open may have got lost
            self._asked.cancel()
            leftovers.add(key=self._key)
            self._key, self._asked = "", None  # what is asked for next is another session
        leftovers.release(self._around.client)

    def _send(self, began: float, tries: int) -> None:
        """Send the request over the link."""
        around, now = self._around, self._around.clock.now()
        request = pb.OpenRequest(tokenizer_hash=around.terms.tokenizer_hash, key=self._key)
        there = around.uplink(on_the_link(open_request_bytes(len(around.terms.tokenizer_hash))))
        if there is None:
            again = now + around.patience.outage_retry_seconds(tries + 1)
            self._turns.at(again, partial(self._send, began, tries + 1))
            return

        def answered(done: Asked) -> None:
            self._turns.soon(partial(self._answered, began, done))

        def ask() -> None:
            self._asked = around.client.ask("Open", request, around.patience.open_seconds, answered)

        self._turns.at(now + there, ask)

    def _answered(self, began: float, done: Asked) -> None:
        try:
            opened = read_opened(done.answer())
        except (CloudUnavailableError, CloudBusyError) as error:
            if isinstance(error, LateError):
                self._around.client.avoid(done.channel)
            self._failed(error)
            return
        self.session_id, self._key, self._asked = opened.session_id, "", None
        self._around.leftovers.release(self._around.client)
        here = self._around.clock.now() + self._around.downlink(on_the_link(open_response_bytes()))
        self._turns.at(here, partial(self._here, began, opened))

    def _here(self, began: float, opened: Opened) -> None:
        agreed = self._around.terms.fingerprint
        if opened.fingerprint != agreed:
            raise ModelChangedError(
                f"the verifier now serves the model {shown(opened.fingerprint)}, it began with {shown(agreed)}; connect again to go on with that one"
            )
        self._opened(self._around.clock.now() - began)
