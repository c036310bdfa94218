"""The two scales: what is closed of a gap, over prompts drawn again; and bounds of a plan in the full replay."""

from __future__ import annotations

import numpy as np
import pytest

from agents.comparison import resampled, resampled_means
from agents.counterfactual.informed import InformedConfig
from agents.counterfactual.scales import Bounds, find_bounds, fit_informed, share_closed
from agents.evaluation import answer_all, make_plan
from agents.rules import FixedRule
from synera_env import SettingError, UncoveredError
from synera_env.synera.replay import SyneraReplayEnv
from tests.support.cuts import holed
from tests.support.recorded import LINKS, Recorded

TINY = InformedConfig(fits=1, rounds=1, answers=3, walks=2, trees=3, leaves=4, least_rows=10, rate=0.4)


def _means(values: list[float]) -> np.ndarray:
    return resampled_means(np.array(values), np.arange(len(values)))


def test_each_prompt_counts_once_in_whatever_order_its_answers_come() -> None:
    twice = resampled_means(np.array([1.0, 5.0, 3.0]), np.array([7, 2, 7]))
    np.testing.assert_allclose(twice, _means([5.0, 2.0]))
    assert twice[0] == pytest.approx(3.5)


def test_the_share_is_nothing_at_the_reference_and_all_at_the_bound() -> None:
    low, high = _means([0.1, 0.2, 0.4]), _means([0.5, 0.7, 0.6])
    for ours, share in ((low, 0.0), (high, 1.0), ((low + high) / 2, 0.5), (2 * low - high, -1.0)):
        found = share_closed(ours, low, high)
        assert found is not None
        assert (found.mean, found.low, found.high) == pytest.approx((share, share, share))


def test_the_interval_is_of_prompts_drawn_again() -> None:
    found = share_closed(_means([0.0, 0.4, 0.4, 0.4]), _means([0.0] * 4), _means([0.4] * 4))
    assert found is not None
    assert found.mean == pytest.approx(0.75)
    assert found.low < 0.5
    assert found.high == pytest.approx(1.0)


def test_draws_without_a_gap_have_no_share() -> None:
    found = share_closed(_means([0.2, 0.3]), _means([0.0, 0.3]), _means([0.4, 0.3]))
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_where_the_bound_is_not_above_the_reference_nothing_is_closed() -> None:
    assert share_closed(_means([1.0, 2.0]), _means([1.0, 1.0]), _means([1.0, 1.0])) is None


def test_bounds_of_a_plan_stand_beside_what_came_of_it(pair: Recorded) -> None:
    env = pair.env()
    plan = make_plan(env, 2 * env.prompt_count, seed=3)
    rounds: list[int] = []
    policy, controller = fit_informed(env, TINY, on_round=lambda done: rounds.append(done.decisions))
    searched: list[int] = []
    found = find_bounds(env, plan, controller, width=4, finished=lambda: searched.append(1))
    assert policy.prompts == env.prompt_count
    assert len(rounds) == 1
    assert len(searched) == len(plan) == len(found.brackets)
    reference, ours = (answer_all(env, FixedRule(env.schema.presets[name], env.schema), plan) for name in ("always", "never"))
    assert found.clairvoyant("upper")[0] >= found.clairvoyant()[0] >= resampled(ours, "reward")[0]
    closed = found.closed(found.informed or (), reference)
    assert closed["informed"] is None or closed["informed"].mean == pytest.approx(1.0)
    assert closed["clairvoyant"] is not None
    assert closed["clairvoyant"].mean < 1.0
    alone = find_bounds(env, plan, width=4)
    assert alone.informed is None
    assert alone.brackets == found.brackets
    assert list(alone.closed(ours, reference)) == ["clairvoyant"]


def test_answers_without_a_plan_are_left_out_and_none_at_all_is_said(pair: Recorded) -> None:
    graphs = holed(pair.graphs, 0.6, seed=1, from_depth=3)
    env = SyneraReplayEnv(graphs, LINKS)
    found = find_bounds(env, make_plan(env, len(graphs), seed=0), width=1)
    assert any(each is None for each in found.brackets)
    with pytest.raises(UncoveredError, match="no plan of any answer"):
        Bounds((None,), None, (0,)).clairvoyant()


def test_a_wrong_load_spread_is_refused(pair: Recorded) -> None:
    with pytest.raises(SettingError, match=r"load_spread=0\.5"):
        fit_informed(pair.env(), TINY, load_spread=0.5)
