"""The clairvoyant's bracket on moving links: replayed from below, above every controller, and tight where nothing moves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.counterfactual.beam import Bracket, Planner
from agents.counterfactual.bound import clairvoyant
from agents.evaluation import PlannedAnswer, answer
from agents.rules import FixedRule
from synera_env import Preference, SettingError, SyneraReplayEnv, UncoveredError
from synera_env.busy import read_cloud_load
from synera_env.radio import Outages
from synera_env.synera.decisions.process import Actions
from synera_env.synera.decisions.scenarios import Scenario
from synera_env.synera.decisions.sight import sight_of
from tests.support.cuts import holed
from tests.support.decisions import IDLE
from tests.support.graphs import CLOUD, DEVICE
from traces.links.generators import constant_link, markov_link
from traces.synera.graph import GraphSet
from traces.workload.generators import poisson

KEEN = Preference(quality=5.0)
LINKS = [markov_link(3, seconds=20.0), constant_link(rtt_ms=40.0)]
OFTEN = Outages(every_seconds=1.5, mean_seconds=0.5, loss_rate=0.1)


def _planned(prompt: int, link: int = 0) -> PlannedAnswer:
    return PlannedAnswer(prompt, link, 0.0 if link else 3.0 * prompt, 17 + prompt, KEEN)


def _replayed(env: SyneraReplayEnv, planned: PlannedAnswer, found: Bracket) -> float:
    """What a plan earns in the scalar replay."""
    options = {name: getattr(planned, name) for name in ("prompt", "link", "link_offset_seconds", "preference")}
    env.reset(seed=planned.seed, options=options)
    actions, earned, done = Actions.of(env.schema).matrix(env.schema), 0.0, False
    for action in found.plan:
        assert not done
        _, reward, done, left, _ = env.step(actions[action])
        assert not left
        earned += reward
    assert done
    return earned


@pytest.mark.parametrize("outages", [Outages.never(), OFTEN], ids=["reachable", "outages"])
def test_the_plan_earns_the_lower_end_and_no_controller_more_than_the_upper(akin_graphs: GraphSet, outages: Outages) -> None:
    env = SyneraReplayEnv(akin_graphs, LINKS, DEVICE, CLOUD, outages=outages)
    planner, rules = Planner(env), [FixedRule(knobs, env.schema) for knobs in Actions.of(env.schema).knobs[::5]]
    gaps = []
    for prompt in range(len(akin_graphs)):
        planned = _planned(prompt)
        found = planner.bracket(planned)
        assert _replayed(env, planned, found) == pytest.approx(found.lower, abs=1e-9)
        rewards = [answer(env, rule, planned).metrics.reward for rule in rules]  # type: ignore[union-attr]
        assert max(rewards) <= found.lower + 0.02  # a narrow search may miss a little
        assert max(found.lower, *rewards) <= found.upper + 1e-9
        gaps.append(found.gap)
    assert min(gaps) >= 0.0
    assert max(gaps) < 0.5


def test_where_nothing_moves_the_exact_bound_lies_within(akin_graphs: GraphSet) -> None:
    env = SyneraReplayEnv(akin_graphs, LINKS, DEVICE, IDLE, outages=Outages.never())
    (exact,) = clairvoyant(sight_of(env), [Scenario(LINKS[1], KEEN)])
    planner = Planner(env)
    for prompt, best in enumerate(exact):
        found = planner.bracket(_planned(prompt, 1))
        assert found.lower - 0.01 <= best <= found.upper + 1e-9  # what is owed at the end is charged by the exact one alone
        assert found.lower > best - 0.05


def test_a_check_that_was_lost_is_planned_on_from_as_kept(akin_graphs: GraphSet) -> None:
    """Else the narrowest search would wait for a cloud that never answers."""
    cut_off = Outages(every_seconds=1e-3, mean_seconds=1e4)
    env = SyneraReplayEnv(akin_graphs, LINKS, DEVICE, CLOUD, outages=cut_off)
    planner, never = Planner(env, 1), FixedRule(replace(env.schema.presets["never"], draft_length=8), env.schema)
    for prompt in range(len(akin_graphs)):
        planned = _planned(prompt)
        assert planner.bracket(planned).lower >= answer(env, never, planned).metrics.reward - 0.02  # type: ignore[union-attr]


def test_a_wider_search_finds_no_less(akin_graphs: GraphSet) -> None:
    env = SyneraReplayEnv(akin_graphs, LINKS, DEVICE, CLOUD, outages=OFTEN)
    narrow, wide = ([Planner(env, width).bracket(_planned(p)).lower for p in range(3)] for width in (1, 32))
    assert sum(wide) >= sum(narrow)
    assert (np.array(wide) >= np.array(narrow) - 0.02).all()


def test_an_answer_that_must_leave_the_graphs_has_no_plan(akin_graphs: GraphSet) -> None:
    env = SyneraReplayEnv(holed(akin_graphs, 0.7, seed=1, from_depth=3), LINKS, DEVICE, CLOUD)
    states, said = sight_of(env).work.process.states, []
    for prompt in range(len(akin_graphs)):
        if states.root[prompt] < 0:
            with pytest.raises(UncoveredError, match=f"prompt {prompt} has no states"):
                Planner(env, 1).bracket(_planned(prompt))
            said.append(prompt)
    assert said


def test_a_shared_cloud_or_a_wrong_width_is_refused(akin_graphs: GraphSet) -> None:
    load = read_cloud_load(poisson(1.0, seconds=20.0, seed=0), CLOUD)
    with pytest.raises(SettingError, match="plan without a workload"):
        Planner(SyneraReplayEnv(akin_graphs, LINKS, DEVICE, CLOUD, cloud_load=load))
    env = SyneraReplayEnv(akin_graphs, LINKS, DEVICE, CLOUD)
    for width in (0, 257):
        with pytest.raises(SettingError, match=f"width={width}"):
            Planner(env, width)


def test_what_costs_more_is_worth_less(akin_graphs: GraphSet) -> None:
    env = SyneraReplayEnv(akin_graphs, LINKS, DEVICE, CLOUD, outages=Outages.never())
    planner, cheap = Planner(env), _planned(0)
    dear = replace(cheap, preference=replace(KEEN, cost=20.0, latency=1.0))
    assert planner.bracket(dear).upper < planner.bracket(cheap).upper
    assert planner.bracket(dear).lower < planner.bracket(cheap).lower
