"""How a session is opened: by one key until it is there, over the link, and with nothing left of what was given up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from runtime.client import CloudClient, Deadlines
from runtime.clock import RealClock
from runtime.errors import CloudBusyError, CloudUnavailableError, LateError, ModelChangedError, SyneraError
from runtime.hat.agenda import Agenda
from runtime.hat.opening import Opening, Surroundings, Turns
from runtime.hat.patience import Patience
from runtime.leftovers import Leftovers
from runtime.link import LinkEmulator
from runtime.wire import synera_pb2 as pb
from synera_env.radio import Radio
from tests.support.middles import TERMS, Broken, Middle, Refusal, scripted
from traces.links.generators import constant_link

PATIENCE = Patience(open_seconds=0.5, first_retry_seconds=0.02, longest_retry_seconds=0.05)


class World:
    """An opening on an agenda of its own, and what came of it."""

    def __init__(self, cloud: Middle, client: CloudClient, emulator: LinkEmulator | None) -> None:
        self.cloud, self.client = cloud, client
        self.leftovers, self.clock = Leftovers(), RealClock()
        self.opened, self.failed, self.died = list[float](), list[SyneraError](), list[BaseException]()
        self._changed = threading.Condition()
        around = Surroundings(client, TERMS, emulator, self.clock, PATIENCE, self.leftovers)
        self.agenda = Agenda("opening", self.clock, self._notes(self.died))
        turns = Turns(self.agenda.at, self.agenda.put)
        self.opening = Opening(around, turns, self._notes(self.opened), self._notes(self.failed))

    def _notes(self, of: list[Any]) -> Callable[[Any], None]:
        def note(what: Any) -> None:
            with self._changed:
                of.append(what)
                self._changed.notify_all()

        return note

    def wait_for(self, reached: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(reached, 20)

    def begin(self) -> None:
        self.agenda.put(self.opening.begin)

    def leave(self) -> None:
        done = threading.Event()
        self.agenda.put(self.opening.leave)
        self.agenda.put(done.set)
        assert done.wait(20)


@contextmanager
def world(opens: Callable[[Middle, int], Any] | None = None, emulator: LinkEmulator | None = None) -> Iterator[World]:
    with (
        scripted(opens=opens) as cloud,
        CloudClient(cloud.target, deadlines=Deadlines(close_seconds=0.5)) as client,
    ):
        made = World(cloud, client, emulator)
        try:
            yield made
        finally:
            made.agenda.end()
            made.leftovers.insist(client, 5.0)


@pytest.mark.parametrize("rtt", [None, 60.0])
def test_a_session_is_there_when_its_answer_has_crossed_the_link(rtt: float | None) -> None:
    link = None if rtt is None else LinkEmulator(Radio(constant_link(rtt, 50.0, 50.0)))
    with world(emulator=link) as w:
        w.begin()
        w.wait_for(lambda: bool(w.opened))
        assert w.opened[0] >= (rtt or 0.0) / 1e3
        assert list(w.cloud.sessions) == [w.opening.session_id]
        w.leave()
        assert w.opening.session_id == ""
        w.cloud.wait_for(lambda: not w.cloud.sessions)


def test_what_failed_is_asked_for_again_by_the_same_key_and_the_next_session_by_another() -> None:
    def fails(cloud: Middle, number: int) -> None:
        if number == 1:
            raise Refusal(CloudBusyError, "no place", synera_retry_after_ms="70")
        if number == 2:
            raise Broken

    with world(fails) as w:
        for failures in (1, 2):
            w.begin()
            w.wait_for(lambda failures=failures: len(w.failed) == failures)  # type: ignore[misc]
        w.begin()
        w.wait_for(lambda: bool(w.opened))
        busy, broken = w.failed
        assert isinstance(busy, CloudBusyError)
        assert busy.retry_after_seconds == 0.07
        assert isinstance(broken, CloudUnavailableError)
        assert len(w.cloud.keys) == 1
        w.leave()
        w.begin()
        w.wait_for(lambda: len(w.opened) == 2)
        assert len(w.cloud.keys) == 2
        w.leave()


def test_an_open_that_hangs_is_late_and_its_channel_is_avoided() -> None:
    def hangs(cloud: Middle, number: int) -> None:
        if number == 1:
            cloud.wait_for(lambda: cloud.opened == 2)

    with world(hangs) as w:
        before = w.client.preferred
        w.begin()
        w.wait_for(lambda: bool(w.failed))
        assert isinstance(w.failed[0], LateError)
        assert w.client.preferred != before
        w.begin()
        w.wait_for(lambda: bool(w.opened))
        w.leave()
        w.cloud.wait_for(lambda: not w.cloud.sessions)


def test_who_leaves_before_the_answer_releases_what_may_come_of_it_and_then_opens_another() -> None:
    """It asked by the same key again, and might get the session that was being released."""
    asked, gate = threading.Event(), threading.Event()

    def hangs(cloud: Middle, number: int) -> None:
        if number == 1:
            asked.set()
            gate.wait(20)

    with world(hangs) as w:
        w.begin()
        assert asked.wait(20)
        w.leave()
        w.begin()
        w.wait_for(lambda: bool(w.opened))
        assert len(w.cloud.keys) == 1  # the first has not been answered
        gate.set()
        w.cloud.wait_for(lambda: len(w.cloud.keys) == 2)
        assert w.opening.session_id in w.cloud.sessions
        w.leave()


def test_a_model_that_is_another_ends_it_with_what_is_served_now() -> None:
    def another(cloud: Middle, number: int) -> Any:
        return pb.OpenResponse(session_id=f"{number:032x}", lease_seconds=60, fingerprint="feed")

    with world(another) as w:
        w.begin()
        w.wait_for(lambda: bool(w.died))  # the talk would have caught it
        assert isinstance(w.died[0], ModelChangedError)
        assert "now serves the model 'feed'" in str(w.died[0])
        assert w.opened == []


def test_an_outage_of_the_link_is_tried_again() -> None:
    radio = Radio(constant_link(0.0, 50.0, 50.0), outages=((0.0, 0.15),))
    with world(emulator=LinkEmulator(radio)) as w:
        w.begin()
        w.wait_for(lambda: bool(w.opened))
        assert w.opened[0] >= 0.1
        assert w.cloud.opened == 1
        w.leave()
