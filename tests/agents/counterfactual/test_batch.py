"""Exact sums: values, visits, gradients and the clairvoyant's plan, held against plain recursion and against finite differences."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.counterfactual.batch import Batch
from agents.counterfactual.learning import Evidence, draw_batch
from agents.counterfactual.policy import ChoiceNet
from synera_env import synera_schema
from synera_env.synera.decisions.scenarios import Ranges, Scenario, Scenarios
from synera_env.synera.decisions.sight import Sight
from tests.support.cuts import holed
from tests.support.decisions import NEAR, outcome, random_policy, whole, world
from traces.links.generators import constant_link, markov_link
from traces.synera.graph import GraphSet


@pytest.fixture(scope="module", params=["closed", "holed"])
def sight(akin_graphs: GraphSet, request: pytest.FixtureRequest) -> Sight:
    graphs = akin_graphs if request.param == "closed" else holed(akin_graphs, 0.1, seed=3, from_depth=6)
    return world(graphs)[1]


def _recursion(batch: Batch, answer: int, policy: np.ndarray | None):  # type: ignore[no-untyped-def]
    """The value of an answer's states by plain recursion; without a policy that of the best."""
    states = batch.work.process.states
    shift = batch.at[answer] - states.first[batch.prompts[answer]]

    @cache
    def value(state: int) -> float:
        found = {a: outcome(batch, answer, state, a) for a in range(len(batch.work.process.actions.knobs))}
        worth = {a: o[0] + o[2] + (0.0 if o[1] is None else value(o[1])) for a, o in found.items() if o is not None}
        if policy is None:
            return max(worth.values())
        shares = {a: policy[state + shift, a] for a in worth}
        return sum(shares[a] * worth[a] for a in worth) / sum(shares.values())

    return value


@settings(max_examples=8)
@given(seed=st.integers(0, 2**16))
def test_values_are_those_of_plain_recursion(sight: Sight, seed: int) -> None:
    batch = whole(sight)
    policy, states = random_policy(batch, seed), batch.work.process.states
    valued = batch.value(policy)
    for answer, prompt in enumerate(batch.prompts):
        value = _recursion(batch, answer, policy)
        assert valued.answers[answer] == pytest.approx(value(int(states.root[prompt])) - batch.prices.start[answer], abs=1e-9)


@settings(max_examples=8)
@given(seed=st.integers(0, 2**16))
def test_every_answer_ends_once_and_is_worth_what_its_visits_earn(sight: Sight, seed: int) -> None:
    batch = whole(sight)
    policy, states = random_policy(batch, seed), batch.work.process.states
    valued = batch.value(policy)
    np.testing.assert_allclose(valued.ends, 1.0, atol=1e-9)
    for answer, prompt in enumerate(batch.prompts):
        earned, first = -batch.prices.start[answer], states.first[prompt]
        for state in range(first, states.first[prompt + 1]):
            here = state - first + batch.at[answer]
            found = [outcome(batch, answer, state, a) for a in range(policy.shape[1])]
            inside = sum(policy[here, a] for a, o in enumerate(found) if o is not None)
            assert valued.inside[here] == pytest.approx(inside, abs=1e-9)
            earned += valued.visits[here] * sum(policy[here, a] / inside * (o[0] + o[2]) for a, o in enumerate(found) if o)
        assert valued.answers[answer] == pytest.approx(earned, abs=1e-9)


def test_the_clairvoyant_is_the_best_of_plain_recursion_and_above_every_policy(sight: Sight) -> None:
    batch = whole(sight)
    best, action = batch.clairvoyant()
    for answer, prompt in enumerate(batch.prompts):
        value = _recursion(batch, answer, None)
        root = int(batch.work.process.states.root[prompt])
        assert best[answer] == pytest.approx(value(root) - batch.prices.start[answer], abs=1e-9)
    followed = np.zeros((batch.states, 24))
    followed[np.arange(batch.states), action] = 1.0
    np.testing.assert_allclose(batch.value(followed).answers, best, atol=1e-9)
    assert (batch.value(random_policy(batch, 0)).answers <= best + 1e-9).all()


def test_a_fixed_rule_is_the_policy_that_follows_it(akin_graphs: GraphSet) -> None:
    sight = world(akin_graphs)[1]
    batch = whole(sight)
    asks, way = np.random.default_rng(0).random(batch.states) < 0.5, 5
    policy = np.zeros((batch.states, 24))
    policy[np.arange(batch.states), way + 12 * asks] = 1.0
    np.testing.assert_allclose(batch.rule(asks, way), batch.value(policy).answers, atol=1e-9)


def test_gains_are_centred_where_the_policy_comes(sight: Sight) -> None:
    batch = whole(sight)
    policy = random_policy(batch, 4)
    valued = batch.value(policy)
    found = batch.gains(valued, 1e-3)
    assert (valued.visits[found.states] >= 1e-3).all()
    assert len(found.states) == (valued.visits >= 1e-3).sum()
    mean = np.nansum(policy[found.states] * found.gains, 1) / valued.inside[found.states]
    np.testing.assert_allclose(mean, 0.0, atol=1e-9)


def test_the_gradient_is_that_of_finite_differences(sight: Sight) -> None:
    """Of the mean worth of an answer, by the parameters of a network."""
    torch.manual_seed(0)
    net = ChoiceNet(synera_schema(2), 24, 4)
    with torch.no_grad():
        net.body[-1].weight.mul_(100)
    ranges = Ranges([constant_link(rtt_ms=30.0), markov_link(1, seconds=5.0)])
    batch, seen = draw_batch(sight, ranges, 6, np.random.default_rng(0))

    def worth() -> float:
        return float(batch.value(net.probabilities(seen).astype(np.float64)).answers.mean())

    valued = batch.value(net.probabilities(seen))
    evidence = Evidence.of(seen, valued, batch.gains(valued))
    evidence.surrogate(evidence.log_shares(net)).backward()
    rng, step = np.random.default_rng(1), 2e-2
    for parameter in (net.body[-1].bias, net.body[-1].weight, net.body[0].weight):
        direction = torch.from_numpy(rng.normal(size=tuple(parameter.shape)).astype(np.float32))
        exact = float((parameter.grad * direction).sum())
        around = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter += sign * step * direction
            around.append(worth())
            with torch.no_grad():
                parameter -= sign * step * direction
        assert (around[0] - around[1]) / (2 * step) == pytest.approx(exact, rel=0.03, abs=2e-5)


def test_a_batch_has_as_many_scenarios_as_prompts_with_states(sight: Sight) -> None:
    with pytest.raises(ValueError, match="2 prompts and 1 scenarios"):
        Batch.of(sight.work, [0, 1], Scenarios.constant(Scenario(NEAR), 1))
