from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.deadline import (
    LEAST_SECONDS,
    LONGEST_CHECK_SECONDS,
    LONGEST_OPEN_SECONDS,
    Patience,
    check_factor,
    repeat_at,
)
from runtime.errors import SettingError

SECONDS = st.floats(0, 20)


def test_before_anything_is_known_a_check_should_take_a_second_and_is_given_two() -> None:
    patience = Patience()
    assert (patience.open_seconds(), patience.check_seconds(500)) == (1.0, 2.0)
    assert Patience(5.0).check_seconds(500) == 5.0


def test_estimates_are_those_of_rfc_6298() -> None:
    """Mean 0.4, deviation 0.2; then, after 0.8, deviation 0.25 and mean 0.45."""
    patience = Patience()
    patience.opened(0.4)
    assert patience.open_seconds() == pytest.approx(2 * (0.4 + 4 * 0.2))
    patience.opened(0.8)
    assert patience.open_seconds() == pytest.approx(2 * (0.45 + 4 * 0.25))


def test_a_check_is_given_a_round_trip_the_usual_work_and_the_reading_of_its_history() -> None:
    patience = Patience(3.0)
    patience.opened(0.4)
    patience.checked(None, 0.1, 0.3, tokens=100)  # a repeat was answered: the round trip stays as it is
    usual = (0.4 + 4 * 0.2) + (0.4 + 4 * 0.2)
    assert patience.check_seconds(0) == pytest.approx(3 * usual)
    assert patience.check_seconds(400) == pytest.approx(3 * (usual + 400 * 0.003))
    before = patience.check_seconds(400)
    patience.checked(0.4, 0.1, 0.3, tokens=4)  # few tokens take long, each: no rate to read a history with
    assert patience.check_seconds(400) < before
    patience.checked(0.4, 0.1, 0.3, tokens=0)
    assert patience.check_seconds(400) < before


def test_what_is_quick_and_steady_is_still_given_a_second() -> None:
    patience = Patience()
    for _ in range(50):
        patience.opened(0.01)
        patience.checked(0.01, 0.0, 0.03, tokens=5)
    assert (patience.open_seconds(), patience.check_seconds(20)) == (LEAST_SECONDS, LEAST_SECONDS)


def test_what_comes_too_late_is_waited_for_twice_as_long_until_one_is_answered() -> None:
    patience = Patience()
    patience.opened(0.05)
    patience.checked(0.05, 0.0, 0.03, tokens=50)
    waits = []
    for _ in range(3):
        waits.append(patience.check_seconds(0))
        patience.check_was_late()
    assert waits == [1.0, 2.0, 4.0]
    patience.opened(0.05)
    assert patience.check_seconds(0) == 8.0, "an Open does not say that a check would be quick"
    patience.checked(0.05, 0.0, 0.03, tokens=50)
    assert patience.check_seconds(0) == 1.0
    patience.open_was_late()
    assert (patience.open_seconds(), patience.check_seconds(0)) == (2.0, 1.0)
    patience.opened(0.05)
    assert patience.open_seconds() == 1.0


@given(
    st.lists(st.tuples(SECONDS, SECONDS, SECONDS, st.integers(0, 5000)), max_size=20), st.floats(1, 1000), st.integers(0, 40)
)
def test_waits_are_never_below_what_was_just_seen_steadily_nor_out_of_bounds(
    checks: list[tuple[float, float, float, int]], factor: float, late: int
) -> None:
    patience = Patience(factor)
    for each in checks:
        patience.checked(*each)
    for _ in range(late):
        patience.check_was_late()
        patience.open_was_late()
    assert LEAST_SECONDS <= patience.open_seconds() <= LONGEST_OPEN_SECONDS
    assert patience.open_seconds() <= patience.check_seconds(0) <= patience.check_seconds(100) <= LONGEST_CHECK_SECONDS
    if checks:
        for _ in range(100):
            patience.checked(*checks[-1])
        network, queue, compute, tokens = checks[-1]
        once = network + queue + compute
        assert patience.check_seconds(tokens) >= min(0.99 * factor * once, LONGEST_CHECK_SECONDS)


@given(SECONDS, SECONDS)
def test_a_request_is_repeated_half_way(sent: float, given_seconds: float) -> None:
    at = repeat_at(sent, sent + given_seconds)
    assert sent <= at <= sent + given_seconds
    assert at - sent == pytest.approx(given_seconds / 2, abs=1e-9)


@pytest.mark.parametrize("factor", [0.99, 0.0, -1.0, 1000.1, float("nan"), float("inf"), True, "2"])
def test_a_factor_that_abandons_what_is_on_time_is_refused(factor: float) -> None:
    with pytest.raises(SettingError, match=r"check_deadline=.* must be a number in 1\.\.1000"):
        check_factor(factor)
    with pytest.raises(SettingError):
        Patience(factor)
