from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime import clock as clock_module
from runtime.clock import PacedClock, RealClock, SimulatedClock


class FakeTime:
    """A monotonic clock that moves only by sleeping."""

    def __init__(self) -> None:
        self.now, self.slept = 50.0, 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.now += seconds


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(clock_module, "time", fake)
    return fake


@given(charges=st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), max_size=20))
def test_simulated_time_is_the_latest_end_and_never_goes_back(charges: list[tuple[float, float]]) -> None:
    clock, latest = SimulatedClock(), 0.0
    for seconds, back in charges:
        since = max(0.0, clock.now() - back)
        clock.charge(seconds, since)
        latest = max(latest, since + seconds)
        assert clock.now() == latest


def test_simulated_work_in_parallel_costs_the_longer_part() -> None:
    clock = SimulatedClock()
    clock.charge(3.0, since=0.0)
    clock.charge(2.0, since=0.0)
    assert clock.now() == 3.0
    clock.charge(2.0, since=3.0)
    assert clock.now() == 5.0


def test_a_real_clock_ignores_charges(fake_time: FakeTime) -> None:
    clock = RealClock()
    clock.charge(9.0, since=clock.now())
    assert clock.now() == 50.0
    assert fake_time.slept == 0.0


def test_a_paced_clock_sleeps_for_what_is_left(fake_time: FakeTime) -> None:
    clock = PacedClock()
    began = clock.now()
    fake_time.now += 2.0  # the work itself
    clock.charge(3.0, since=began)
    assert fake_time.slept == pytest.approx(1.0)
    clock.charge(3.0, since=began)  # already over
    assert fake_time.slept == pytest.approx(1.0)
    assert clock.now() == pytest.approx(began + 3.0)
