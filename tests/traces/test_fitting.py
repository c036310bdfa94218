from __future__ import annotations

import pytest

from traces.fitting import fit_costs, fit_errors

ROWS = [[1.0, layers, layers * (n - 1), 0.0] for layers in (1, 2, 4) for n in (1, 4, 16)] + [[0.0, 0.0, 0.0, 1.0]]
COSTS = [0.5, 2.0, 0.125, 0.75]
TAKEN = [sum(a * b for a, b in zip(row, COSTS, strict=True)) for row in ROWS]


def test_the_fit_finds_the_costs_behind_the_timings() -> None:
    found = fit_costs(ROWS, TAKEN)
    assert found == pytest.approx(COSTS, abs=1e-3)
    [error] = fit_errors(ROWS, TAKEN, found, ["x"] * len(ROWS))
    assert (error.group, error.points) == ("all", 10)
    assert error.mean_relative_error < 1e-3
    assert error.r_squared == pytest.approx(1.0)


def test_costs_are_never_negative() -> None:
    assert min(fit_costs([[1, 1], [1, 2], [1, 4]], [8.0, 4.0, 2.0])) >= 0.0


def test_errors_by_hand() -> None:
    """Timings 10, 20 and 40 of which the formula says 10, 30 and 30."""
    whole, one, rest = fit_errors([[10.0], [30.0], [30.0]], [10.0, 20.0, 40.0], [1.0], ["one", "rest", "rest"])
    assert (whole.group, whole.points) == ("all", 3)
    assert whole.mean_relative_error == pytest.approx((0 + 0.5 + 0.25) / 3)
    assert whole.p95_relative_error == pytest.approx(0.475)
    assert whole.r_squared == pytest.approx(1 - 200 / (1400 / 3), abs=1e-5)
    assert (one.group, one.points, one.r_squared, one.mean_relative_error) == ("one", 1, None, 0.0)
    assert (rest.points, rest.r_squared) == (2, pytest.approx(0.0))
    assert str(rest) == "rest: 2 timings, R^2 0.0000, relative error 37.5% mean, 48.8% p95"
    assert "R^2 -" in str(one)
