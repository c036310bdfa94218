from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SettingError
from traces.errors import TraceError
from traces.workload.generators import poisson
from traces.workload.trace import Workload


def workload(
    arrival: list[float], context: list[int] | None = None, generated: list[int] | None = None, seconds: float = 10.0
) -> Workload:
    ones = [1] * len(arrival)
    return Workload(
        "test", "made up.", seconds, np.array(arrival, float), np.array(context or ones), np.array(generated or ones)
    )


def test_its_figures_by_hand() -> None:
    found = workload([0.0, 1.0, 4.0], [10, 20, 30], [1, 1, 7]).figures
    assert (found.requests, found.span_seconds, found.rate) == (3, 4.0, 0.3)
    assert found.gap_cv == 0.5  # gaps of 1 and 3 s: 1 over 2
    assert (found.context.mean, found.context.p50, found.context.p95, found.context.most) == (20, 20, 29, 30)
    assert found.generated.mean == 3.0
    assert np.isnan(workload([2.0]).figures.gap_cv)
    assert np.isnan(workload([2.0, 2.0, 2.0]).figures.gap_cv)


# ---------------------------------------------------------------- rates


def test_thinning_keeps_requests_where_they_were() -> None:
    whole = poisson(5.0, 400.0)
    thin = whole.thinned(1.0, seed=3)
    assert len(thin) == pytest.approx(400, rel=0.2)
    assert set(thin.arrival_seconds) < set(whole.arrival_seconds)
    assert thin.seconds == whole.seconds
    assert thin.same(whole.thinned(1.0, seed=3))
    assert not thin.same(whole.thinned(1.0, seed=4))
    kept = np.isin(whole.arrival_seconds, thin.arrival_seconds)
    assert np.array_equal(whole.context_tokens[kept], thin.context_tokens)
    assert "Thinned at random from" in thin.source


@given(factor=st.floats(0.01, 100.0), seed=st.integers(0, 50))
def test_rescaling_keeps_the_shape_of_the_gaps(factor: float, seed: int) -> None:
    whole = poisson(2.0, 50.0, seed)
    other = whole.rescaled(whole.rate * factor)
    assert other.rate == pytest.approx(whole.rate * factor)
    assert other.figures.gap_cv == pytest.approx(whole.figures.gap_cv)
    assert np.array_equal(other.context_tokens, whole.context_tokens)
    assert "Time multiplied by" in other.source


def test_a_lower_rate_thins_and_a_higher_one_squeezes() -> None:
    whole = poisson(2.0, 200.0)
    assert whole.at_rate(0.5, seed=1).same(whole.thinned(0.5, seed=1))
    assert whole.at_rate(8.0).same(whole.rescaled(8.0))


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    for change in (poisson(2.0, 50.0).thinned, poisson(2.0, 50.0).rescaled):
        with pytest.raises(SettingError, match="rate="):
            change(rate)


def test_nothing_can_be_thinned_to_more_or_to_nothing() -> None:
    with pytest.raises(SettingError, match="rate=3"):
        workload([0.0, 1.0]).thinned(3.0)
    with pytest.raises(TraceError, match="no request is left"):
        workload([0.0, 1.0]).thinned(1e-6)


def test_shrunk_lengths_keep_their_ratios() -> None:
    small = workload([0, 1, 2], [100, 50, 0], [8, 4, 2]).shrunk(10, 8)
    assert small.context_tokens.tolist() == [10, 5, 1]
    assert small.generated_tokens.tolist() == [8, 4, 2]
    assert "context_tokens multiplied by 0.1" in small.source


def test_its_first_seconds() -> None:
    first = workload([0, 1, 2.5, 3], seconds=10).first(2.5)
    assert (first.arrival_seconds.tolist(), first.seconds) == ([0, 1], 2.5)
    whole = workload([0, 1])
    assert whole.first(100.0) is whole
    with pytest.raises(TraceError, match="first request comes after 1 s"):
        workload([2.0, 3.0]).first(1.0)


# ---------------------------------------------------------------- what is refused

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "1 to 200"),
    ({"source": "x" * 2001}, "2000 characters"),
    ({"seconds": 0.0}, r"seconds=0\.0 must be a number above 0"),
    ({"seconds": True}, "seconds=True"),
    ({"seconds": 1.0}, r"arrival_seconds=2\.0 of request 2 must be at most the period"),
    ({"arrival_seconds": np.array([-1.0, 2.0])}, r"arrival_seconds=-1\.0 of request 1 must be at least 0"),
    ({"arrival_seconds": np.array([2.0, 1.0])}, r"arrival_seconds=1\.0 of request 2 must be at least the one before"),
    ({"arrival_seconds": np.array([0.0, np.nan])}, "arrival_seconds=nan of request 2"),
    ({"arrival_seconds": np.array([])}, "1 to"),
    ({"arrival_seconds": np.array([0.0])}, r"lengths \[1, 2\]"),
    ({"arrival_seconds": np.array(["a", "b"])}, "series of numbers"),
    ({"context_tokens": np.array([1, -1])}, "context_tokens=-1 of request 2 must be in 0"),
    ({"context_tokens": np.array([1.5, 2.0])}, "series of whole numbers"),
    ({"generated_tokens": np.array([10**8, 1])}, "generated_tokens=100000000 of request 1"),
    ({"generated_tokens": 3}, "must be a series"),
]


@pytest.mark.parametrize(("change", "said"), WRONG)
def test_what_makes_no_sense_is_named(change: dict[str, Any], said: str) -> None:
    series = {"arrival_seconds": np.array([0.0, 2.0]), "context_tokens": np.array([1, 2]), "generated_tokens": np.array([1, 2])}
    with pytest.raises(TraceError, match=said):
        Workload(**({"name": "x", "source": "y", "seconds": 3.0} | series | change))
