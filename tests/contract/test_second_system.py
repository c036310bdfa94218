"""A second system moves in: what is shared serves it as it stands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from agents.bundle import Bundle, BundleError
from agents.comparison import summarise_answers
from agents.evaluation import answer, evaluate, make_plan
from agents.fleet import run_fleet
from agents.learning.recipe import Recipe
from agents.learning.run import train
from agents.policy import ControllerPolicy
from agents.registry import controller, rules
from agents.rules import FixedRule
from agents.search import grid_search
from runtime.errors import UncoveredError
from runtime.policy import drive
from synera_env import Preference, synera_schema
from synera_env.fidelity import same_tokens
from tests.support.recorded import TINY_PPO
from tests.support.toy import SCHEMA, Tea, TeaEnv, TeaKnobs

RUN = Recipe.of("ppo", TINY_PPO, steps=512, envs=2, validation_answers=2, validate_every=128)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished training on the second system."""
    folder = tmp_path_factory.mktemp("tea") / "run"
    train(lambda preference: TeaEnv(preference=preference), TeaEnv(), RUN, folder)
    return folder


def test_gymnasium_accepts_it() -> None:
    check_env(TeaEnv(render_mode="ansi"), skip_render_check=True)


def test_it_is_trained_exported_and_reloaded(run: Path) -> None:
    bundle = Bundle.load(run / "bundle")
    assert (bundle.meta.system, bundle.meta.schema) == ("tea", SCHEMA.describe())
    assert (bundle.meta.fingerprints, bundle.meta.max_new_tokens, dict(bundle.tensors)) == ({}, None, {})
    assert bundle.meta.parity.max_abs_difference <= 1e-5
    env, acts = TeaEnv(), bundle.controller(SCHEMA)
    rewards = [m.reward for m in evaluate(env, acts, make_plan(env, RUN.validation_answers, seed=RUN.seed))]
    assert np.mean(rewards) == pytest.approx(bundle.meta.provenance["validation_reward"])


def test_what_was_trained_knows_more_than_chance(run: Path) -> None:
    """A few hundred steps find that heat costs and spilling costs more."""
    env = TeaEnv()
    plan = make_plan(env, 8)
    trained, chance = (
        np.mean([m.reward for m in evaluate(env, each, plan)])
        for each in (Bundle.load(run / "bundle").controller(SCHEMA), rules(SCHEMA)["random"])
    )
    assert trained > chance


def test_bundles_of_one_system_are_refused_by_the_other(run: Path) -> None:
    with pytest.raises(BundleError, match=r"of tea, it would act in .* of synera \(knobs row 0: name ask"):
        Bundle.load(run / "bundle").controller(synera_schema(2))


def test_its_rules_and_its_search_come_from_its_rows() -> None:
    assert list(rules(SCHEMA)) == ["alone", "ask", "random"]
    assert isinstance(controller("ask", SCHEMA), FixedRule)
    env = TeaEnv()
    found = grid_search(env, episodes=2)
    assert found.tried == 3 * 3 * 2  # all crossed; the presets are among them
    settings = SCHEMA.grid()
    rewards = [np.mean([m.reward for m in evaluate(env, FixedRule(k, SCHEMA), make_plan(env, 2))]) for k in settings]
    assert found.reward == pytest.approx(max(rewards))


def test_its_answers_are_measured_and_compared() -> None:
    env = TeaEnv()
    plan = make_plan(env, 4)
    answered = [answer(env, rules(SCHEMA)["ask"], planned) for planned in plan]
    summary = summarise_answers(answered)
    assert (summary["quality"], summary["offload_rate"], summary["uncovered_rate"]) == (1.0, 1.0, 0.0)
    assert np.isnan(summary["acceptance_rate"])  # it drafts nothing
    assert same_tokens(answered[0].records, env, 0).identical
    assert [a.tokens for a in run_fleet(TeaEnv, rules(SCHEMA)["ask"], plan, devices=2)] == [a.tokens for a in answered]


def test_a_policy_drives_its_session_as_its_environment() -> None:
    """The same object, with and without Gymnasium."""
    env, rule = TeaEnv(), rules(SCHEMA)["random"]
    planned = make_plan(env, 1)[0]
    tea = Tea()
    policy = ControllerPolicy(rule, SCHEMA, planned.preference)
    steps = list(drive(tea, (1,), policy, planned.seed))
    assert steps[-1].done
    assert [r.knobs for r in tea.records] == [r.knobs for r in answer(env, rule, planned).records]


def test_a_step_that_leaves_what_was_recorded_counts_as_not_taken_and_truncates() -> None:
    env = TeaEnv(burns_at=1.0, preference=Preference(latency=1.0, energy=1.0))
    env.reset(seed=0)
    seen, *_ = env.advance(TeaKnobs(heat=0.0))
    observation, reward, terminated, truncated, info = env.advance(TeaKnobs(heat=1.0))
    assert (terminated, truncated, info["uncovered"]) == (False, True, True)
    assert info["reason"] == "nobody has recorded burnt tea"
    np.testing.assert_array_equal(observation, seen)
    assert (reward, set(info["reward_terms"].values())) == (0.0, {0.0})
    with pytest.raises(RuntimeError, match="call reset"):
        env.advance(TeaKnobs())


def test_an_answer_whose_start_was_not_recorded_is_counted_as_uncovered(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(tea: Tea, prompt: object, knobs: object) -> None:
        raise UncoveredError("no tea here")

    env = TeaEnv()
    plan = make_plan(env, 2)
    known = answer(env, rules(SCHEMA)["ask"], plan[0])
    monkeypatch.setattr(Tea, "begin", unknown)
    lost = answer(env, rules(SCHEMA)["ask"], plan[1])
    assert (lost.metrics, lost.records, lost.tokens) == (None, (), ())
    assert summarise_answers([known, lost])["uncovered_rate"] == 0.5
    assert same_tokens(known.records, env, 0).first_difference == "chunk 1: no tea here"


def test_every_episode_is_released_once() -> None:
    env = TeaEnv()
    sessions = []
    for _ in range(3):
        env.reset(seed=0)
        sessions.append(env.session)
        sessions.append(env.episode(seed=0).session)
    env.close()
    env.close()
    assert [session.closed for session in sessions] == [1] * 6  # type: ignore[attr-defined]
