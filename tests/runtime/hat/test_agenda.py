"""A thread that does what it is given: in order, at its time, until its end or a bug."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from runtime.clock import Clock, RealClock
from runtime.hat.agenda import Agenda


class Hands(Clock):
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds


@contextmanager
def agenda(clock: Clock | None = None) -> Iterator[tuple[Agenda, list[BaseException]]]:
    died: list[BaseException] = []
    made = Agenda("agenda of a test", clock or RealClock(), died.append)
    try:
        yield made, died
    finally:
        made.end()
        assert not made.alive


def done(made: Agenda) -> None:
    """Wait until all that was put is done."""
    reached = threading.Event()
    made.put(reached.set)
    assert reached.wait(20)


def test_what_is_put_by_many_is_done_by_one_thread_in_the_order_of_each() -> None:
    said: list[tuple[int, int]] = []
    threads: set[int] = set()

    def work(who: int, number: int) -> Callable[[], None]:
        def do() -> None:
            threads.add(threading.get_ident())
            said.append((who, number))

        return do

    def puts(who: int) -> None:
        for number in range(100):
            made.put(work(who, number))

    with agenda() as (made, _):
        putting = [threading.Thread(target=puts, args=(who,)) for who in range(4)]
        for each in putting:
            each.start()
        for each in putting:
            each.join()
        done(made)
    assert len(threads) == 1
    for who in range(4):
        assert [number for one, number in said if one == who] == list(range(100))


def test_timers_come_by_their_time_and_those_of_one_time_in_their_order() -> None:
    said, clock = list[str](), Hands()
    with agenda(clock) as (made, _):

        def plan() -> None:
            for when, name in ((3.0, "c"), (1.0, "a"), (2.0, "b"), (1.0, "a2")):
                made.at(when, lambda name=name: said.append(name))  # type: ignore[misc]

        made.put(plan)
        done(made)
        assert said == []
        clock.seconds = 1.0
        done(made)
        done(made)
        assert said == ["a", "a2"]
        clock.seconds = 5.0
        done(made)
        done(made)
        assert said == ["a", "a2", "b", "c"]


def test_a_time_that_is_over_waits_for_nobody_and_does_not_keep_out_what_is_put() -> None:
    """A timer that sets itself again for now, for ever."""
    count = 0

    def again() -> None:
        nonlocal count
        count += 1
        made.at(0.0, again)

    with agenda() as (made, _):
        made.put(again)
        for _ in range(5):
            done(made)
    assert count >= 5


def test_what_is_cleared_is_not_done() -> None:
    said, clock = list[str](), Hands()
    with agenda(clock) as (made, _):
        made.put(lambda: made.at(1.0, lambda: said.append("cleared")))
        made.put(made.clear)
        made.put(lambda: made.at(1.0, lambda: said.append("later")))
        done(made)
        clock.seconds = 2.0
        done(made)
        done(made)
    assert said == ["later"]


def test_its_end_waits_for_what_was_put_before_and_for_no_timer() -> None:
    said = list[str]()
    with agenda() as (made, _):
        made.put(lambda: made.at(RealClock().now() + 3600, lambda: said.append("in an hour")))
        made.put(lambda: said.append("put"))
    assert said == ["put"]


def test_a_work_that_raises_ends_it_and_is_told_and_nothing_is_done_after_it(caplog: pytest.LogCaptureFixture) -> None:
    said = list[str]()
    with agenda() as (made, died):
        made.put(lambda: 1 / 0)
        made.put(lambda: said.append("after"))
    assert [type(each) for each in died] == [ZeroDivisionError]
    assert said == []
    assert "the thread that talks to the cloud died" in caplog.text
