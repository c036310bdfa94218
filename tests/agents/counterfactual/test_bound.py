"""The clairvoyant bound, held against controllers in the full replay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.counterfactual.bound import clairvoyant
from agents.evaluation import PlannedAnswer, answer
from agents.rules import FixedRule
from synera_env import Preference, SyneraReplayEnv
from synera_env.radio import Outages
from synera_env.synera.decisions.scenarios import Scenario
from tests.support.cuts import holed
from tests.support.decisions import IDLE, world
from tests.support.graphs import DEVICE
from traces.links.generators import constant_link
from traces.synera.graph import GraphSet

DEBTS = 0.01
"""An answer's tail may owe so much, which the process charges and the replay does not."""


@pytest.mark.parametrize("preference", [Preference(), Preference(latency=1.0, cost=0.1)])
@pytest.mark.parametrize("rtt_ms", [5.0, 400.0])
def test_no_controller_is_worth_more(akin_graphs: GraphSet, preference: Preference, rtt_ms: float) -> None:
    link = constant_link(rtt_ms=rtt_ms)
    _, sight = world(akin_graphs)
    (best,) = clairvoyant(sight, [Scenario(link, preference)])
    env = SyneraReplayEnv(akin_graphs, [link], DEVICE, IDLE, preference, Outages.never())
    gaps = []
    for knobs in sight.work.process.actions.knobs:
        rule = FixedRule(knobs, env.schema)
        for prompt in range(len(akin_graphs)):
            metrics = answer(env, rule, PlannedAnswer(prompt, 0, 0.0, 1, preference)).metrics
            assert metrics is not None
            gaps.append(best[prompt] - metrics.reward)
    assert min(gaps) > -DEBTS
    assert min(gaps) < 0.1  # and some rule is near


def test_a_scenario_that_costs_more_is_worth_less(akin_graphs: GraphSet) -> None:
    _, sight = world(akin_graphs)
    keen = Preference(quality=50.0)  # so that checks are worth it
    scenarios = [
        Scenario(constant_link(rtt_ms=20.0), keen),
        Scenario(constant_link(rtt_ms=500.0), keen),
        Scenario(constant_link(rtt_ms=500.0), replace(keen, cost=20.0)),
    ]
    near, far, dear = clairvoyant(sight, scenarios).mean(1)
    assert near > far > dear


def test_holes_can_only_lower_it(akin_graphs: GraphSet) -> None:
    scenario = [Scenario(constant_link())]
    closed = clairvoyant(world(akin_graphs)[1], scenario)
    cut = clairvoyant(world(holed(akin_graphs, 0.3, from_depth=5))[1], scenario)
    known = ~np.isnan(cut)
    assert (cut[known] <= closed[known] + 1e-12).all()
    assert (cut[known] < closed[known] - 1e-6).any()
