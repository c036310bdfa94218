"""Walkers that go side by side: who waits is served with all others that wait, in an order that is always the same, or is ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from greenlet import GreenletExit
from hypothesis import given
from hypothesis import strategies as st

from traces.synera.waves import side_by_side, wait_for


class Kitchen:
    """Serves what is ordered, and keeps each wave."""

    def __init__(self, out_of: object = None) -> None:
        self.waves: list[list[object]] = []
        self._out_of = out_of

    def serve(self, wants: Sequence[object]) -> None:
        self.waves.append(list(wants))
        if self._out_of in wants:
            raise LookupError(f"no {self._out_of}")


def eater(kitchen: Kitchen, name: str, dishes: int) -> Callable[[], str]:
    def eats() -> str:
        for dish in range(dishes):
            wait_for(kitchen, (name, dish))
        return name

    return eats


def test_who_waits_is_served_in_one_wave_and_who_does_not_is_not_kept() -> None:
    kitchen = Kitchen()
    tasks = [eater(kitchen, name, dishes) for name, dishes in (("a", 2), ("b", 0), ("c", 3), ("d", 0))]
    assert side_by_side(tasks) == ["a", "b", "c", "d"]
    assert kitchen.waves == [[("a", 0), ("c", 0)], [("a", 1), ("c", 1)], [("c", 2)]]


@given(st.lists(st.integers(0, 4), max_size=7))
def test_each_wave_holds_what_every_one_that_still_eats_wants_next(dishes: list[int]) -> None:
    kitchen = Kitchen()
    side_by_side([eater(kitchen, str(i), count) for i, count in enumerate(dishes)])
    wanted = [[(str(i), dish) for i, count in enumerate(dishes) if dish < count] for dish in range(max(dishes, default=0))]
    assert kitchen.waves == wanted


def test_each_server_is_asked_once_a_wave() -> None:
    one, other = Kitchen(), Kitchen()
    side_by_side([eater(one, "a", 1), eater(other, "b", 2), eater(one, "c", 1)])
    assert (one.waves, other.waves) == ([[("a", 0), ("c", 0)]], [[("b", 0)], [("b", 1)]])


def test_alone_one_is_served_at_once() -> None:
    kitchen = Kitchen()
    wait_for(kitchen, "soup")
    assert kitchen.waves == [["soup"]]
    side_by_side([])
    assert kitchen.waves == [["soup"]]


def test_tables_within_tables() -> None:
    """A walker may itself set others side by side; their waits are theirs, and it goes on waiting with its own kind."""
    kitchen = Kitchen()

    def host() -> list[str]:
        found = side_by_side([eater(kitchen, "x", 1), eater(kitchen, "y", 1)])
        wait_for(kitchen, "host")
        return found

    assert side_by_side([host, eater(kitchen, "a", 1)]) == [["x", "y"], "a"]
    assert kitchen.waves == [[("x", 0), ("y", 0)], ["host", ("a", 0)]]


# ---------------------------------------------------------------- failures


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_the_failure_of_one_reaches_the_caller_and_nobody_is_left_waiting(fails_at: int) -> None:
    kitchen, left = Kitchen(), list[str]()

    def careful(name: str) -> Callable[[], None]:
        def eats() -> None:
            try:
                eater(kitchen, name, 5)()
            except GreenletExit:
                left.append(name)
                raise

        return eats

    def chokes() -> None:
        for dish in range(fails_at):
            wait_for(kitchen, dish)
        raise ValueError("choked")

    with pytest.raises(ValueError, match="choked"):
        side_by_side([careful("a"), chokes, careful("b")])
    # Who came after one that failed at once never began.
    assert left == (["a", "b"] if fails_at else ["a"])
    assert len(kitchen.waves) == fails_at
    assert side_by_side([eater(kitchen, "next", 1)]) == ["next"]


def test_the_failure_of_a_server_reaches_the_caller_and_nobody_is_left_waiting() -> None:
    kitchen, cleaned = Kitchen(out_of="salt"), list[str]()

    def salted() -> None:
        try:
            wait_for(kitchen, "salt")
        finally:
            cleaned.append("salted")

    with pytest.raises(LookupError, match="no salt"):
        side_by_side([salted, eater(kitchen, "b", 1)])
    assert cleaned == ["salted"]


def test_an_interrupt_is_a_failure_like_any_other() -> None:
    kitchen, cleaned = Kitchen(), list[str]()

    def waits() -> None:
        try:
            wait_for(kitchen, "soup")
        finally:
            cleaned.append("waits")

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side([waits, interrupted])
    assert cleaned == ["waits"]
