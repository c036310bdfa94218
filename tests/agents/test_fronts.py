"""Fronts and what is read off them, against hand-computed cases; shares of gaps; ranks in two worlds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from agents.aggregates import Means
from agents.contest import ONLY, Contest, by_seeds
from agents.evaluation import Answered
from agents.fronts import cost_of, on_par, pareto, quality_within
from agents.gaps import Bounds, closed
from agents.ranking import rank_correlation, spearman
from runtime.errors import SettingError
from synera_env import TraceError
from tests.agents.test_aggregates import answered, contest, metrics, scenario


def test_a_front_holds_what_no_other_beats() -> None:
    costs, quality = [3.0, 1.0, 2.0, 2.0, 4.0], [0.9, 0.5, 0.4, 0.7, 0.9]
    assert pareto(costs, quality) == [1, 3, 0]


points = st.lists(st.tuples(st.floats(0, 5), st.floats(0, 1)), min_size=1, max_size=8)


@given(points, st.floats(0, 5))
def test_what_a_front_offers_within_a_cost_can_be_had_and_nothing_on_it_is_better(
    found: list[tuple[float, float]], cost: float
) -> None:
    costs, quality = np.array(found).T
    offered = quality_within(costs, quality, cost)
    affordable = quality[costs <= cost]
    assert np.isnan(offered) == (not len(affordable))
    if len(affordable):
        assert affordable.max() - 1e-9 <= offered <= quality.max() + 1e-9
        assert cost_of(costs, quality, offered - 1e-12) <= cost + 1e-6


def test_between_two_points_lies_their_mix_and_a_point_below_it_is_no_help() -> None:
    costs, quality = np.array([1.0, 2.0, 3.0]), np.array([0.4, 0.45, 0.8])
    assert quality_within(costs, quality, 2.0) == pytest.approx(0.6)
    assert quality_within(costs, quality, 9.0) == pytest.approx(0.8)
    assert np.isnan(quality_within(costs, quality, 0.9))
    assert cost_of(costs, quality, 0.6) == pytest.approx(2.0)
    assert cost_of(costs, quality, 0.1) == pytest.approx(1.0)
    assert np.isnan(cost_of(costs, quality, 0.81))


def priced(points: dict[str, tuple[float, float, float]], prompts: int = 8) -> dict[str, list[Answered]]:
    """By preference: seconds, cloud seconds, quality."""
    return {
        scenario("l", name).name: [
            Answered(p, "sum", metrics(seconds=s, cloud_seconds=c, quality=q), (), ()) for p in range(prompts)
        ]
        for name, (s, c, q) in points.items()
    }


def test_quality_at_on_par_latency_and_cloud_cost_at_equal_quality() -> None:
    ours = priced({"balanced": (2.0, 0.10, 0.8), "speed": (1.0, 0.02, 0.4)})
    theirs = priced({"balanced": (1.5, 0.12, 0.5), "speed": (1.5, 0.12, 0.5)})
    fast = priced({"balanced": (0.5, 0.0, 0.2), "speed": (0.5, 0.0, 0.2)})
    good = priced({"balanced": (4.0, 0.3, 0.9), "speed": (4.0, 0.3, 0.9)})
    answers = {"ours": {ONLY: ours}, "theirs": {ONLY: theirs}, "fast": {ONLY: fast}, "good": {ONLY: good}}
    means = Means(Contest((scenario("l", "balanced"), scenario("l", "speed")), answers))
    found = on_par(means, "ours", "theirs", "sum")
    assert found is not None
    assert found.quality_ratio is not None
    assert found.quality_ratio.mean == pytest.approx(0.6 / 0.5)
    assert found.saved_cloud is not None
    assert found.saved_cloud.mean == pytest.approx(1 - 0.04 / 0.12)  # a quarter of the way from 0.02 to 0.10
    unreached = on_par(means, "ours", "fast")
    assert unreached is not None
    assert (unreached.quality_ratio, unreached.saved_cloud) == (None, None)
    dearer = on_par(means, "ours", "good")
    assert dearer is not None
    assert dearer.saved_cloud is None
    assert dearer.quality_ratio is not None
    assert dearer.quality_ratio.mean == pytest.approx(0.8 / 0.9)


# ---------------------------------------------------------------- gaps


def test_a_share_of_a_gap_is_of_the_way_from_the_baseline_to_the_bound() -> None:
    found = contest({"mine": {"0": [[0.6] * 4, [0.8] * 4]}, "base": {ONLY: [[0.5] * 4, [0.5] * 4]}})
    one, other = (each.name for each in found.scenarios)
    bounds = Bounds({"clairvoyant": {one: 0.9, other: 0.9, "elsewhere": 5.0}, "informed": {other: 0.8}, "no gap": {one: 0.5}})
    shares = {each.bound: each for each in closed(Means(found), bounds, "base", ("mine",))}
    assert shares["clairvoyant"].share is not None
    assert shares["clairvoyant"].share.mean == pytest.approx(0.5)
    assert shares["clairvoyant"].scenarios == 2
    assert shares["informed"].share is not None
    assert shares["informed"].share.mean == pytest.approx(1.0)
    assert shares["no gap"].share is None


def test_a_file_of_bounds_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text('{"bounds": {"clairvoyant": {"75 ms / profile / balanced": 0.7}}}')
    assert Bounds.load(path).bounds["clairvoyant"]["75 ms / profile / balanced"] == 0.7
    path.write_text('{"bounds": {"clairvoyant": {"x": NaN}}}')
    with pytest.raises(TraceError):
        Bounds.load(path)
    with pytest.raises(TraceError, match="no bounds at"):
        Bounds.load(tmp_path / "none.json")


# ---------------------------------------------------------------- two worlds


def test_ranks_of_two_worlds_are_compared_over_controllers() -> None:
    rng = np.random.default_rng(2)
    base = rng.normal(0, 0.3, 30)
    replay = {f"c{i}": answered((base + 0.3 * i).tolist()) for i in range(6)}
    live = {
        name: answered([a.metrics.reward + rng.normal(0, 0.05) for a in found if a.metrics]) for name, found in replay.items()
    }
    found = rank_correlation(replay, live)
    assert found.correlation.mean == pytest.approx(1.0)
    assert found.correlation.low > 0.9
    assert found.left_out == ()
    turned = rank_correlation(replay, dict(zip(live, reversed(live.values()), strict=True)))
    assert turned.correlation.mean == pytest.approx(-1.0)


def test_ranks_are_scipy_s_ties_included() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.integers(0, 4, (2, 7, 5)).astype(float)
    for column, found in enumerate(spearman(one, other)):
        assert found == pytest.approx(spearmanr(one[:, column], other[:, column]).statistic)
    assert np.isnan(spearman(np.ones((4, 1)), np.ones((4, 1)))[0])


def test_who_has_no_answers_in_a_world_is_left_out_and_too_few_are_refused() -> None:
    replay = {name: answered([float(i), 1.0]) for i, name in enumerate("abcd")}
    live = dict(replay) | {"d": answered([None, None])}
    assert rank_correlation(replay, live).left_out == ("d",)
    with pytest.raises(SettingError, match="2 controllers have answers in replay and live"):
        rank_correlation({name: replay[name] for name in "abd"}, live)
    with pytest.raises(ValueError, match="not of one plan"):
        rank_correlation(replay, {name: found[:1] for name, found in live.items()})


# ---------------------------------------------------------------- seeds by name


def test_names_that_are_alike_up_to_their_seed_are_one_policy() -> None:
    found = by_seeds(["mine-seed0", "mine-seed1", "a/mine-seed2", "other_seed3", "plain", "x-seed1-more"])
    assert found == {
        "mine-seed0": ("mine", "0"),
        "mine-seed1": ("mine", "1"),
        "a/mine-seed2": ("a/mine-seed2", "-"),
        "other_seed3": ("other_seed3", "-"),
        "plain": ("plain", "-"),
        "x-seed1-more": ("x-seed1-more", "-"),
    }
