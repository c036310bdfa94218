"""The rules: what they set, that chance is fixed by the episode's seed, and that the search finds the best."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.evaluation import answer, evaluate, make_plan
from agents.rules import FixedRule, RandomRule
from synera_env import Knobs, synera_schema
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import ALWAYS, NEVER, THRESHOLD

SCHEMA = synera_schema(exits=2)
ONE, BATCH = np.zeros(len(SCHEMA.low), np.float32), np.zeros((5, len(SCHEMA.low)), np.float32)


@pytest.mark.parametrize(
    "knobs", [NEVER, ALWAYS, THRESHOLD, Knobs(0.3, 0.4, exit_index=0, exit_margin=0.2, draft_length=8, offload_budget=0.25)]
)
def test_a_fixed_rule_sets_its_knobs_whatever_it_sees(knobs: Knobs) -> None:
    rule = FixedRule(knobs, SCHEMA)
    for observation in (ONE, ONE + 3.0):
        action, state = rule.predict(observation, 17)
        set_knobs = SCHEMA.knobs(action)
        assert set_knobs.confidence_threshold == pytest.approx(knobs.confidence_threshold, abs=1e-6)
        assert set_knobs.importance_threshold == pytest.approx(knobs.importance_threshold, abs=1e-6)
        assert set_knobs.exit_margin == pytest.approx(knobs.exit_margin, abs=1e-6)
        assert set_knobs.offload_budget == pytest.approx(knobs.offload_budget, abs=1e-6)
        assert set_knobs.draft_length == knobs.draft_length
        assert set_knobs.exit_index == knobs.exit_index % 2
        assert state == 17


@pytest.mark.parametrize("rule", [FixedRule(ALWAYS, SCHEMA), RandomRule(SCHEMA)])
def test_one_observation_gives_one_action_and_a_batch_a_batch(rule: FixedRule | RandomRule) -> None:
    for observation, shape in ((ONE, (len(SCHEMA.rows),)), (BATCH, (5, len(SCHEMA.rows)))):
        action, _ = rule.predict(observation)
        assert action.shape == shape
        assert action.dtype == np.float32
        assert (np.abs(action) <= 1).all()


def test_a_fixed_rule_hands_out_copies() -> None:
    rule = FixedRule(ALWAYS, SCHEMA)
    rule.predict(ONE)[0][:] = 0.0
    assert SCHEMA.knobs(rule.predict(ONE)[0]).offload_budget == 1.0


def test_never_asks_the_cloud_and_always_asks_at_every_chunk(env: SyneraReplayEnv) -> None:
    for knobs, asked in ((NEVER, 0.0), (ALWAYS, 1.0)):
        for metrics in evaluate(env, FixedRule(knobs, env.schema), make_plan(env, 6)):
            assert metrics.offload_rate == asked


def test_a_threshold_asks_exactly_about_the_chunks_below_it(env: SyneraReplayEnv) -> None:
    rule = FixedRule(Knobs(confidence_threshold=0.08, offload_budget=1.0, draft_length=2), env.schema)
    records = [r for planned in make_plan(env, 6) for r in answer(env, rule, planned).records]
    assert {r.offloaded for r in records} == {True, False}
    assert all(r.offloaded == (r.draft.confidence < r.knobs.confidence_threshold) for r in records)


def _walk(rule: RandomRule, seed: int, steps: int = 4) -> NDArray[np.float32]:
    actions, state = [], rule.initial_state(seed)
    for step in range(steps):
        action, state = rule.predict(ONE, state, np.array([step == 0]))
        actions.append(action)
    return np.stack(actions)


def test_chance_is_fixed_by_the_seed_of_the_episode() -> None:
    rule = RandomRule(SCHEMA)
    first = _walk(rule, 0)
    assert np.array_equal(first, _walk(rule, 0))  # 0 is a seed, and other episodes between change nothing
    assert not np.array_equal(first, _walk(rule, 1))
    assert not np.array_equal(first, _walk(RandomRule(SCHEMA, seed=1), 0))
    assert not np.array_equal(first[0], first[1])


def test_chance_covers_the_whole_range() -> None:
    actions = _walk(RandomRule(SCHEMA), 3, steps=400)
    assert (actions.min(0) < -0.9).all()
    assert (actions.max(0) > 0.9).all()
