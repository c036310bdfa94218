"""A controller made ready to decide: what `predict` is handed, as stable-baselines3 means it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.base import Seeded
from agents.evaluation import answer, make_plan
from agents.parity import meet
from agents.policy import ControllerPolicy
from agents.rules import FixedRule, RandomRule
from agents.user_env import UserEnv
from synera_env import Preference, synera_schema
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import ALWAYS

SCHEMA = synera_schema(2)
ROW = np.zeros(len(SCHEMA.low), np.float32)


class Recurrent:
    """As a recurrent policy of stable-baselines3: the state is None at an episode's start, then the tuple that it returned."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        assert episode_start is not None
        assert episode_start.shape == (1,)
        assert deterministic
        if episode_start[0]:
            assert state is None
            hidden, cell = np.zeros(2, np.float32), 0
        else:
            hidden, cell = state
        self.steps.append(cell)
        action = np.full((*np.shape(observation)[:-1], len(SCHEMA.rows)), np.tanh(cell / 4 - 0.5), np.float32)
        return action, (hidden + 1.0, cell + 1)


def test_a_recurrent_policy_is_handed_what_it_returned_and_nothing_at_a_start() -> None:
    recurrent = Recurrent()
    policy = ControllerPolicy(recurrent, SCHEMA)
    for seed in (0, 7):
        policy.begin(seed)
        for _ in range(3):
            policy.act(ROW)
    assert recurrent.steps == [0, 1, 2, 0, 1, 2]


def test_a_recurrent_policy_answers(env: SyneraReplayEnv) -> None:
    recurrent = Recurrent()
    outcomes = [answer(env, recurrent, planned) for planned in make_plan(env, 4)]
    assert recurrent.steps == [step for outcome in outcomes for step in range(len(outcome.records))]


def test_the_observations_of_the_parity_check_are_those_that_a_recurrent_policy_meets(env: SyneraReplayEnv) -> None:
    recurrent = Recurrent()
    met = meet(UserEnv.of(env), recurrent, masked=False, samples=40)
    assert np.stack([each.observation for each in met]).shape == (40, len(SCHEMA.low))
    assert [each.start for each in met] == [step == 0 for step in recurrent.steps]
    assert len(recurrent.steps) == 40
    assert recurrent.steps.count(0) > 1  # more than one episode, each from its start
    assert max(recurrent.steps) > 1


def test_a_controller_that_draws_begins_with_the_seed() -> None:
    rule = RandomRule(SCHEMA)
    assert isinstance(rule, Seeded)
    assert not isinstance(FixedRule(ALWAYS, SCHEMA), Seeded)
    policy, actions = ControllerPolicy(rule, SCHEMA), {}
    for seed in (0, 1, 0):
        policy.begin(seed)
        found = np.stack([policy.act(ROW) for _ in range(3)])
        np.testing.assert_array_equal(actions.setdefault(seed, found), found)
    assert (actions[0] != actions[1]).any()


def test_a_rule_that_draws_needs_no_seed_to_be_evaluated_by_others(env: SyneraReplayEnv) -> None:
    from stable_baselines3.common.evaluation import evaluate_policy

    reward, spread = evaluate_policy(RandomRule(SCHEMA), env, n_eval_episodes=3, warn=False)  # type: ignore[arg-type]
    assert np.isfinite([reward, spread]).all()


@pytest.mark.parametrize("seed", [0, 3])
def test_chance_is_fixed_by_the_planned_seed_alone(env: SyneraReplayEnv, seed: int) -> None:
    planned = make_plan(env, 2, seed=seed)
    one = [answer(env, RandomRule(SCHEMA), p).tokens for p in planned]
    assert one == [answer(env, RandomRule(SCHEMA), p).tokens for p in planned[::-1]][::-1]


class Told:
    """Implements :class:`agents.base.Learner`; remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, float, int]] = []

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        return SCHEMA.action(ALWAYS), (0 if state is None else state + 1)

    def settled(self, record: Any, preference: Preference, state: Any) -> None:
        self.told.append((record, preference.cost, state))


def test_a_learner_is_told_of_each_chunk_but_the_last_with_the_state_that_decided_it(env: SyneraReplayEnv) -> None:
    for planned in make_plan(env, 3, preference=Preference(cost=3.0)):
        learner = Told()
        records = answer(env, learner, planned).records
        assert learner.told == [(record, 3.0, place) for place, record in enumerate(records[:-1])]
        assert records[:-1]
