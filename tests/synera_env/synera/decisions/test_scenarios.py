"""Scenarios: what is drawn is what the ranges hold, and what cannot stand still is refused."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import SettingError
from synera_env import Preference
from synera_env.synera.decisions.scenarios import Ranges, Scenario, Scenarios
from traces.links.generators import constant_link, markov_link


def test_what_is_drawn_is_what_the_ranges_hold() -> None:
    rng = np.random.default_rng(0)
    links = [constant_link(rtt_ms=40.0), markov_link(3, seconds=20.0)]
    fixed = Scenarios.draw(Ranges(links, Preference(latency=0.3)), 64, rng)
    assert (fixed.weights == fixed.weights[0]).all()
    assert fixed.weights[0, 1] == 0.3
    assert (fixed.waits == 1.0).all()
    assert (fixed.link > 0).all()
    assert (fixed.seen > 0).all()
    still = np.isclose(fixed.link[:, 0], 0.04) & np.isclose(fixed.link[:, 1], 10e6)
    assert 10 < still.sum() < 54
    np.testing.assert_array_equal(fixed.seen[still], fixed.link[still])
    assert (fixed.seen[~still] != fixed.link[~still]).any()
    drawn = Scenarios.draw(Ranges(links, None, load_spread=4.0), 256, rng)
    default = np.array([1.0, 0.1, 2.0, 0.005, 0.1])
    assert (drawn.weights[:, 0] == 1.0).all()
    assert (drawn.weights / default).min() == pytest.approx(1 / 3, rel=0.1)
    assert (drawn.weights / default).max() == pytest.approx(3, rel=0.1)
    assert 0.25 <= drawn.waits.min() < 0.3 < 3.3 < drawn.waits.max() <= 4.0


def test_ranges_without_a_link_or_with_a_spread_below_one_are_refused() -> None:
    with pytest.raises(SettingError, match="at least one link"):
        Ranges([])
    with pytest.raises(SettingError, match=r"load_spread=0\.5"):
        Ranges([constant_link()], load_spread=0.5)


def test_a_link_that_changes_or_waits_of_nothing_are_refused() -> None:
    with pytest.raises(SettingError, match="changes its rtt_ms: the bound is exact only where a link stands still"):
        Scenario(markov_link(1))
    with pytest.raises(SettingError, match="waits=-1"):
        Scenario(constant_link(), waits=-1.0)
