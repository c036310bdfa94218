"""Exploration: what a policy does becomes known, its draws repeat, and nothing but graphs changes by it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from agents.counterfactual.exploring import Explorer
from agents.counterfactual.policy import ChoiceController, ChoiceNet
from agents.evaluation import answer_all, make_plan
from synera_env import Preference
from synera_env.radio import Outages
from synera_env.synera.decisions.process import Actions
from synera_env.synera.decisions.scenarios import Ranges
from synera_env.synera.decisions.sight import sight_by_now
from synera_env.synera.replay import SyneraReplayEnv
from tests.support.growing import bare, growing
from tests.support.recorded import FREE_CLOUD, GPU, LINKS, PHONE, Recorded
from traces.profile import CloudProfile
from traces.synera.growing import GrowingGraphs
from traces.synera.record_models import Models

CONSTANT = LINKS[:1]


@pytest.fixture(scope="module")
def models(pair: Recorded) -> Models:
    return Models.load(pair.slm, pair.llm)


class Made:
    """An explorer of graphs of which nothing is known, and a policy that is sure of what it does."""

    def __init__(
        self,
        pair: Recorded,
        models: Models,
        answers: int,
        random: float = 0.0,
        load_spread: float = 1.0,
        cloud: CloudProfile = FREE_CLOUD,
    ) -> None:
        self.graphs: GrowingGraphs = growing(models, bare(pair.graphs), pair.score)
        self.env = SyneraReplayEnv(self.graphs, CONSTANT, PHONE, cloud, Preference(), Outages.never())
        self.actions = Actions.of(self.env.schema)
        torch.manual_seed(3)
        self.net = ChoiceNet(self.env.schema, len(self.actions.knobs), 8)
        with torch.no_grad():
            self.net.body[-1].weight.mul_(1e5)
        ranges = Ranges(CONSTANT, Preference(), load_spread)
        self.explorer = Explorer(self.env, ranges, self.actions, answers, random, seed=1)


def test_what_the_policy_does_is_known_afterwards_and_the_policy_as_it_was(pair: Recorded, models: Models) -> None:
    made = Made(pair, models, answers=len(pair.graphs))
    before = {name: value.clone() for name, value in made.net.state_dict().items()}
    assert not len(sight_by_now(made.env).work.process.startable)
    made.explorer.explore(made.net, 0)
    known = made.graphs.known()
    assert sight_by_now(made.env).work.process.startable.tolist() == list(range(len(pair.graphs)))
    assert len(known) < known.nodes < pair.graphs.nodes / 2
    env = SyneraReplayEnv(known, CONSTANT, PHONE, FREE_CLOUD, Preference(), Outages.never())
    controller = ChoiceController(made.net, made.actions, env.schema)
    assert all(each.metrics for each in answer_all(env, controller, make_plan(env, len(known))))
    for name, value in made.net.state_dict().items():
        assert torch.equal(value, before[name])


def test_an_exploration_repeats_and_others_are_of_other_answers(pair: Recorded, models: Models) -> None:
    def grown(*numbers: int) -> GrowingGraphs:
        made = Made(pair, models, answers=3, random=0.5)
        for number in numbers:
            made.explorer.explore(made.net, number)
        return made.graphs

    one, again, other, both = (grown(*numbers) for numbers in ((0,), (0,), (1,), (0, 1)))
    for name, array in one.known().arrays.items():
        np.testing.assert_array_equal(again.known().arrays[name], array)
    assert one.nodes != other.nodes
    assert both.nodes > max(one.nodes, other.nodes)
    assert sum(len(graph) > 1 for graph in one.known()) == 3  # answers, each of another prompt


def test_so_many_actions_are_any_and_the_others_the_policys(pair: Recorded, models: Models) -> None:
    made, rows = Made(pair, models, answers=1, random=0.25), 20_000
    seen = np.tile(made.env.reset(seed=0)[0], (rows, 1))
    shares = made.net.probabilities(seen[:1])[0]
    assert shares.max() == pytest.approx(1.0)
    drawn = made.explorer._drawn(made.net, seen, np.random.default_rng(0))
    found = np.bincount(drawn, minlength=len(shares)) / rows
    np.testing.assert_allclose(found, 0.75 * shares + 0.25 / len(shares), atol=4 * np.sqrt(0.25 / rows))
    assert found.min() > 0


def test_the_cloud_is_as_busy_as_the_training_has_it(pair: Recorded, models: Models) -> None:
    made, rng = Made(pair, models, answers=1, load_spread=4.0, cloud=GPU), np.random.default_rng(0)
    waits = np.array([made.explorer._world(rng).cloud.queue_ms_quantiles[-1] for _ in range(200)]) / GPU.queue_ms_quantiles[-1]
    assert (waits.min(), waits.max()) == pytest.approx((0.25, 4.0), rel=0.1)
    assert np.median(waits) == pytest.approx(1.0, rel=0.4)
    assert made.env.cloud == GPU
