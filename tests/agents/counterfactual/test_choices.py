"""A policy that is asked only where it comes to, held against the same policy asked everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from agents.counterfactual.choices import END, UNKNOWN, Courses, RuleScorer, course_values
from agents.counterfactual.learning import Rule
from synera_env import synera_schema
from synera_env.synera.decisions.sight import Sight
from tests.support.cuts import holed
from tests.support.decisions import outcome, whole, world
from traces.synera.graph import GraphSet


@pytest.fixture(scope="module", params=["closed", "holed"])
def sight(akin_graphs: GraphSet, request: pytest.FixtureRequest) -> Sight:
    graphs = akin_graphs if request.param == "closed" else holed(akin_graphs, 0.1, seed=3, from_depth=6)
    return world(graphs)[1]


@dataclass
class Linear:
    """Any deterministic policy of the observation; counts what it was asked."""

    seed: int
    asked: int = 0

    def scores(self, observations: NDArray[np.float32]) -> NDArray[np.floating]:
        self.asked += len(observations)
        return observations @ np.random.default_rng(self.seed).normal(size=(observations.shape[1], 24))


def _everywhere(sight: Sight, seed: int):  # type: ignore[no-untyped-def]
    """The batch, its observations, and the one-hot policy of all its states."""
    batch = whole(sight)
    seen = sight.observe(batch.prompts, batch.scenarios)
    led = Courses(batch, seen, Linear(seed)).next(np.arange(batch.states))
    action = np.where(led == UNKNOWN, -np.inf, Linear(seed).scores(seen)).argmax(1)
    return batch, seen, np.eye(24)[action]


@settings(max_examples=6)
@given(seed=st.integers(0, 2**16))
def test_it_is_worth_what_the_same_policy_is_everywhere(sight: Sight, seed: int) -> None:
    batch, _, policy = _everywhere(sight, seed)
    scorer = Linear(seed)
    found = course_values(sight, scorer, batch.prompts, batch.scenarios)
    np.testing.assert_allclose(found, batch.value(policy).answers, atol=1e-9)
    assert scorer.asked < batch.states / 2


@settings(max_examples=6)
@given(seed=st.integers(0, 2**16))
def test_gains_are_those_of_the_same_policy_everywhere(sight: Sight, seed: int) -> None:
    batch, seen, policy = _everywhere(sight, seed)
    courses = Courses(batch, seen, Linear(seed))
    visits = courses.explore(2, 0.3, np.random.default_rng(seed))
    found, valued = courses.gains(visits), batch.value(policy)
    np.testing.assert_array_equal(found.states, np.flatnonzero(visits))
    wanted = batch.gains(valued._replace(visits=visits), 1e-12)
    np.testing.assert_allclose(found.gains, wanted.gains, atol=1e-9)


def test_without_exploring_it_walks_its_own_course(sight: Sight) -> None:
    batch, seen, policy = _everywhere(sight, 7)
    courses = Courses(batch, seen, Linear(7))
    np.testing.assert_allclose(courses.explore(3, 0.0, np.random.default_rng(0)), batch.value(policy).visits, atol=1e-12)
    assert courses.explore(3, 0.5, np.random.default_rng(0)).sum() != pytest.approx(batch.value(policy).visits.sum())


def test_every_action_leads_where_the_tables_say(sight: Sight) -> None:
    batch, seen, _ = _everywhere(sight, 0)
    states, led = batch.work.process.states, Courses(batch, seen, Linear(0)).next(np.arange(batch.states))
    for answer, prompt in enumerate(batch.prompts):
        shift = batch.at[answer] - states.first[prompt]
        for state in range(states.first[prompt], states.first[prompt + 1], 7):
            for action, found in enumerate(led[state + shift]):
                told = outcome(batch, answer, state, action)
                assert found == (UNKNOWN if told is None else END if told[1] is None else told[1] + shift)


def test_a_fixed_rule_is_worth_what_its_own_pass_says(akin_graphs: GraphSet) -> None:
    sight = world(akin_graphs)[1]
    batch = whole(sight)
    seen = sight.observe(batch.prompts, batch.scenarios)
    schema = synera_schema(2)
    asks = seen[:, schema.places("least_confidence")[0]] < 0.4
    found = course_values(sight, RuleScorer(Rule(0.4, 5, 0.0), schema, 12), batch.prompts, batch.scenarios)
    np.testing.assert_allclose(found, batch.rule(asks, 5), atol=1e-9)
    assert 0 < asks.sum() < len(asks)
