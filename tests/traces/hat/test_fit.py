from __future__ import annotations

from dataclasses import astuple, replace

import pytest

from traces.hat import fit as fitting
from traces.hat.ablation import methods_of, simulated
from traces.hat.fit import MOST_TRIALS, fit
from traces.hat.run import Load
from traces.hat.testbed import FITTED, GUESSED, Testbed


def test_a_fit_comes_nearer_to_the_figures_than_the_guess() -> None:
    methods, trials = methods_of(("chunking",)), []
    start = replace(FITTED, forward_base_seconds=1.5 * FITTED.forward_base_seconds)
    found = fit(methods, start, rounds=3, answers=10, each=lambda: trials.append(1))
    assert 2 < len(trials) <= MOST_TRIALS

    def off(fitted: fitting.Fitted) -> float:
        (row,) = simulated(methods, Testbed.of(fitted), Load(rate=fitted.requests_per_second, answers=10), (1_000, 1_001))
        return abs(row.ttft_off) + abs(row.tbt_off)

    assert off(found) < 0.7 * off(start)


def test_what_no_figure_tells_is_as_guessed() -> None:
    """Nobody drafts in this row, so that it says nothing of hits."""
    found = fit(methods_of(("u-shape",)), rounds=2, answers=5)
    assert found.hit_rate == pytest.approx(GUESSED.hit_rate, rel=1e-6)
    assert astuple(found) != astuple(GUESSED)
