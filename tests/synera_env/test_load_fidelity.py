from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from runtime.errors import SettingError
from synera_env.load_fidelity import ObservedCheck, compare, kolmogorov_distance
from traces.workload.shared_cloud import Met

values = st.lists(st.sampled_from([0.0, 1.0, 1.5, 2.0, 7.0]), min_size=1, max_size=30).map(np.array)


def check(at: float, queue: float, load: int = 1) -> ObservedCheck:
    return ObservedCheck(at, 5, Met(queue, 0.03, 0.03, load))


@given(one=values, other=values)
def test_the_distance_is_scipy_s(one: np.ndarray, other: np.ndarray) -> None:
    assert kolmogorov_distance(one, other) == pytest.approx(ks_2samp(one, other).statistic)
    assert kolmogorov_distance(one, other, 0.5) <= kolmogorov_distance(one, other) + 1e-12


def test_a_shift_within_the_tolerance_is_none() -> None:
    one = np.array([0.0, 1.0, 5.0])
    assert kolmogorov_distance(one, one + 0.1) == pytest.approx(1 / 3)
    assert kolmogorov_distance(one, one + 0.1, 0.2) == kolmogorov_distance(one + 0.1, one, 0.2) == 0.0
    assert kolmogorov_distance(one, one + 0.3, 0.2) == pytest.approx(1 / 3)
    assert kolmogorov_distance(np.zeros(4), np.array([0, 0, 0, 9.0]), 1.0) == 0.25


def test_a_model_that_is_right_is_found_so() -> None:
    checks = [check(0.3 * i, 0.001 * (i % 7), 1 + i % 5) for i in range(40)]
    by_time = {c.at_seconds: c.met for c in checks}
    found = compare(checks, lambda at, tokens: by_time[at])
    assert {each.kolmogorov for each in found.values()} == {0.0}
    assert {each.mean_error for each in found.values()} == {0.0}
    assert found["queue_seconds"].correlation == pytest.approx(1.0)
    assert math.isnan(found["compute_seconds"].correlation)
    assert found["load"].real == found["load"].model
    assert found["load"].real.p50 == 3.0


def test_one_that_has_the_distribution_but_not_the_course_is_told_by_its_correlation() -> None:
    checks = [check(0.25 * i, 0.01 * (i // 20)) for i in range(40)]
    backwards = {c.at_seconds: other.met for c, other in zip(checks, reversed(checks), strict=True)}
    found = compare(checks, lambda at, tokens: backwards[at])["queue_seconds"]
    assert found.kolmogorov == 0.0
    assert found.correlation == pytest.approx(-1.0)
    assert found.mean_error == pytest.approx(0.01)


def test_the_model_is_asked_for_the_tokens_of_each_check() -> None:
    asked: list[tuple[float, int]] = []

    def model(at: float, tokens: int) -> Met:
        asked.append((at, tokens))
        return Met(0.0, 0.03, 0.03, 1)

    compare([check(1.0, 0.0), ObservedCheck(2.0, 9, Met(0.0, 0.03, 0.03, 1))], model)
    assert asked == [(1.0, 5), (2.0, 9)]


def test_nothing_cannot_be_compared() -> None:
    with pytest.raises(SettingError, match="no checks"):
        compare([], lambda at, tokens: Met(0, 0, 0, 1))
    with pytest.raises(SettingError, match="stretch_seconds"):
        compare([check(0.0, 0.0)], lambda at, tokens: Met(0, 0, 0, 1), 0.0)
