"""The rules: what they set and when they offload, what they are called, and that chance is fixed by the episode's seed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.base import Controller, Seeded
from agents.evaluation import answer, evaluate, make_plan
from agents.rules import FIGURES, ChanceRule, FixedRule, LevelRule, RandomRule, level_rule
from synera_env import Knobs, SettingError, synera_schema
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import ALWAYS, NEVER, THRESHOLD
from tests.support import toy

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


EVERY_KIND = [
    FixedRule(ALWAYS, SCHEMA),
    RandomRule(SCHEMA),
    ChanceRule(0.5, SCHEMA),
    LevelRule({"margin": 0.5}, SCHEMA),
    LevelRule({"confidence": 0.7, "importance": 0.5}, SCHEMA),
]


@pytest.mark.parametrize("rule", EVERY_KIND)
def test_one_observation_gives_one_action_and_a_batch_a_batch(rule: Controller) -> None:
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
    asked = FixedRule(Knobs(offload_budget=1.0, draft_length=2), env.schema)
    sure = [r.draft.confidence for planned in make_plan(env, 6) for r in answer(env, asked, planned).records]
    threshold = float(np.median(sure))
    rule = FixedRule(Knobs(confidence_threshold=threshold, offload_budget=1.0, draft_length=2), env.schema)
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


# ---------------------------------------------------------------- levels of the draft in hand

DOUBTS = {
    "confidence": lambda draft: min(t.confidence for t in draft.tokens),
    "margin": lambda draft: min(t.margin for t in draft.tokens),
    "entropy": lambda draft: max(t.entropy for t in draft.tokens),
    "importance": lambda draft: draft.importance,
}


@pytest.mark.parametrize("figure", FIGURES)
def test_a_level_asks_exactly_about_the_chunks_whose_worst_token_is_doubtful(env: SyneraReplayEnv, figure: str) -> None:
    kept = [r.draft for p in make_plan(env, 6) for r in answer(env, FixedRule(NEVER, env.schema), p).records]
    level = float(np.quantile([DOUBTS[figure](draft) for draft in kept], 0.4))
    records = [r for p in make_plan(env, 12) for r in answer(env, LevelRule({figure: level}, env.schema), p).records]
    assert {r.offloaded for r in records} == {True, False}
    for r in records:
        doubt = DOUBTS[figure](r.draft)
        assert r.offloaded == (doubt < level if FIGURES[figure].sure else doubt >= level)
        assert len(r.draft.tokens) <= 4
        assert {t.exit_index for t in r.draft.tokens} == {1}


@pytest.mark.parametrize(
    ("name", "knobs"),
    [
        ("confidence=0.08", Knobs(confidence_threshold=0.08, offload_budget=1.0)),
        ("importance=0.6", Knobs(confidence_threshold=1.0, importance_threshold=0.6, offload_budget=1.0)),
        ("confidence=0.09,importance=0.3", Knobs(confidence_threshold=0.09, importance_threshold=0.3, offload_budget=1.0)),
    ],
)
def test_what_has_a_knob_decides_as_the_knob_does(env: SyneraReplayEnv, name: str, knobs: Knobs) -> None:
    for planned in make_plan(env, 6):
        by_level, by_knob = (
            answer(env, rule, planned) for rule in (level_rule(name, env.schema), FixedRule(knobs, env.schema))
        )
        assert by_level.tokens == by_knob.tokens
        assert [r.offloaded for r in by_level.records] == [r.offloaded for r in by_knob.records]


def test_each_row_of_a_batch_is_decided_by_itself() -> None:
    places = {name: SCHEMA.places(name) for name in ("confidence", "entropy")}
    batch = np.zeros((3, len(SCHEMA.low)), np.float32)
    batch[:, places["confidence"]], batch[:, places["entropy"]] = 0.9, 0.0
    batch[1, places["confidence"][3]] = 0.2
    batch[2, places["entropy"][7]] = 3.0
    for rule, asks in ((LevelRule({"confidence": 0.5}, SCHEMA), [0, 1, 0]), (LevelRule({"entropy": 2.0}, SCHEMA), [0, 0, 1])):
        assert [SCHEMA.knobs(action).offload_budget for action in rule.predict(batch)[0]] == asks


@pytest.mark.parametrize("name", ["margin=0.5", "confidence=0.7,importance=0.25", "entropy=15.5", "chance=0.2"])
def test_a_rule_is_called_what_it_is_made_of(name: str) -> None:
    assert level_rule(name, SCHEMA).name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("surprise=0.5", "figure='surprise' is not one of confidence, margin, entropy, importance, chance"),
        ("margin=", "margin='' must be a number"),
        ("margin=much", "margin='much' must be a number"),
        ("margin=nan", r"margin=nan must be a number in 0\.\.1"),
        ("margin=1.5", r"margin=1\.5 must be a number in 0\.\.1"),
        ("entropy=17", r"entropy=17\.0 must be a number in 0\.\.16"),
        ("chance=-0.1", r"chance=-0\.1 must be a number in 0\.\.1"),
        ("margin=0.5,", "figure='' is not one of"),
        ("margin=0.5,margin=0.6", "names margin twice"),
        ("margin=0.5,chance=0.1", "mixes chance with figures"),
    ],
)
def test_a_name_that_makes_no_sense_is_one_line(name: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        level_rule(name, SCHEMA)


def test_a_rule_needs_something_to_look_at() -> None:
    with pytest.raises(SettingError, match="at least one figure"):
        LevelRule({}, SCHEMA)
    with pytest.raises(SettingError, match="the system tea shows no margin"):
        LevelRule({"margin": 0.5}, toy.SCHEMA)


# ---------------------------------------------------------------- chance


def test_chance_asks_as_often_as_it_should_whatever_it_sees(env: SyneraReplayEnv) -> None:
    rule = ChanceRule(0.3, SCHEMA)
    assert isinstance(rule, Seeded)
    asked, state = [], rule.initial_state(5)
    for _ in range(2000):
        action, state = rule.predict(ONE, state)
        asked.append(SCHEMA.knobs(action).offload_budget)
    assert np.mean(asked) == pytest.approx(0.3, abs=0.05)
    assert set(asked) == {0.0, 1.0}
    for rate in (0.0, 1.0):
        for metrics in evaluate(env, ChanceRule(rate, SCHEMA), make_plan(env, 6)):
            assert metrics.offload_rate == rate


def test_chance_of_an_answer_is_fixed_by_its_seed(env: SyneraReplayEnv) -> None:
    plan, rule = make_plan(env, 12), ChanceRule(0.5, SCHEMA)
    first = [[r.offloaded for r in answer(env, rule, p).records] for p in plan]
    assert first == [[r.offloaded for r in answer(env, rule, p).records] for p in plan]
    assert len({tuple(each) for each in first}) > 1
