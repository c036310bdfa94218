"""From rows at any times to a fixed step: nothing is lost but what lies beyond the last whole step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from traces.errors import TraceError
from traces.links.resampling import averaged, even_step, held, over_intervals, packets_per_step, rates
from traces.links.trace import MOST_SAMPLES

steps = st.sampled_from([0.05, 0.1, 1.0, 2.5])
intervals = st.lists(st.tuples(st.floats(0.01, 20), st.floats(0, 1000)), min_size=1, max_size=30)


@given(intervals=intervals, step=steps, start=st.sampled_from([0.0, 3.7, 1.7e9]))
def test_what_passes_in_all_stays(intervals: list[tuple[float, float]], step: float, start: float) -> None:
    lengths, values = np.array(intervals).T
    edges = start + np.concatenate([[0.0], np.cumsum(lengths)])
    total = edges[-1] - edges[0]
    assume(total >= step)
    found = over_intervals(edges, values, step)
    assert len(found) == pytest.approx(total / step, abs=1.0)
    whole = len(found) * step
    passed = np.interp(whole, edges - edges[0], np.concatenate([[0.0], np.cumsum(values * np.diff(edges))]))
    assert found.sum() * step == pytest.approx(passed, rel=1e-4, abs=1e-3)
    assert values.min() <= found.min() <= found.max() <= values.max()


@given(values=st.lists(st.floats(0, 1e6), min_size=1, max_size=50), step=steps)
def test_what_is_at_that_step_already_stays_as_it_was(values: list[float], step: float) -> None:
    edges = np.arange(len(values) + 1) * step
    assert over_intervals(edges, np.array(values), step).tolist() == values


def test_a_step_weighs_what_is_in_it_by_time() -> None:
    assert over_intervals(np.array([0, 0.25, 2.0, 3.5]), np.array([8.0, 4.0, 1.0]), 1.0).tolist() == [5.0, 4.0, 1.0]


def test_a_value_holds_until_the_next_row_and_gaps_hold_the_one_before() -> None:
    times, values = np.array([1.0, 2.0, 4.0, 5.0]), np.array([3.0, np.nan, 7.0, np.nan])
    assert held(times, values, 0.0, 6.0, 1.0).tolist() == [3, 3, 3, 3, 7, 7]


def test_rows_of_one_time_are_averaged() -> None:
    times, values = averaged(np.array([0.0, 1.0, 1.0, 2.0]), np.array([1.0, 2.0, 4.0, 5.0]))
    assert (times.tolist(), values.tolist()) == ([0, 1, 2], [1, 3, 5])


@given(times=st.lists(st.integers(0, 4999), max_size=200), step_ms=st.sampled_from([10, 100, 1000]))
def test_each_packet_counts_once(times: list[int], step_ms: int) -> None:
    steps = 5000 // step_ms
    mbps = packets_per_step(np.array(sorted(times), dtype=np.int64), steps, step_ms)
    assert len(mbps) == steps
    assert mbps.sum() * step_ms / 1e3 * 1e6 == pytest.approx(12_000 * len(times))


def test_packets_beyond_the_last_whole_step_are_left_out() -> None:
    assert packets_per_step(np.array([0, 50, 99, 100, 250]), 2, 100) == pytest.approx([0.36, 0.12])


def test_a_rate_that_no_trace_can_state_is_an_outage() -> None:
    assert rates(np.array([0.0, 9e-5, 1e-4, 5.0])).tolist() == [0, 0, 1e-4, 5]


def test_what_has_no_step_is_refused() -> None:
    with pytest.raises(TraceError, match=r"lasts 0\.5 s, and a link trace at least a step of 1 s"):
        over_intervals(np.array([0.0, 0.5]), np.array([1.0]), 1.0)
    with pytest.raises(TraceError, match=f"{MOST_SAMPLES} steps of 1 s are the most"):
        over_intervals(np.array([0.0, 1e12]), np.array([1.0]), 1.0)
    with pytest.raises(TraceError, match="all its rows are of one time, 7"):
        even_step(np.array([7.0, 7.0]))


def test_an_even_step_is_the_median() -> None:
    assert even_step(np.array([0.0, 1.0, 2.0, 2.0, 9.0])) == 1.0
