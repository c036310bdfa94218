"""LinUCB: it learns where offloading pays from what it sees, by the formula, and is taken up where it was; what chunks are worth."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.bandits import LinUCB, LinUCBState, linucb
from agents.bandits.rewards import MOST_TOKENS_PER_SECOND, throughput, trusted_tokens, utility
from agents.evaluation import answer, make_plan
from agents.rules import FixedRule
from synera_env import Preference, SettingError, synera_schema
from synera_env.reward import reward_terms
from synera_env.synera.replay import SyneraReplayEnv

SCHEMA = synera_schema(exits=2)


def seen(confidence: float) -> NDArray[np.float32]:
    found = SCHEMA.center.copy()
    found[SCHEMA.places("least_confidence")] = confidence
    return np.asarray(found, np.float32)


def offloads(rule: LinUCB, observation: NDArray[np.float32]) -> bool:
    return bool(SCHEMA.knobs(rule.predict(observation)[0]).offload_budget == 1.0)


def test_it_learns_to_offload_where_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linucb, "utility", lambda record, preference, tokens: record.worth)
    rule, rng = LinUCB.new(SCHEMA), np.random.default_rng(0)
    for _ in range(600):
        confidence = float(rng.uniform())
        action, state = rule.predict(seen(confidence))
        offloaded = SCHEMA.knobs(action).offload_budget == 1.0
        worth = (0.1 - 0.2 * confidence) if offloaded else 0.0
        rule.settled(SimpleNamespace(worth=worth, committed=(1,)), Preference(), state)
    assert [offloads(rule, seen(c)) for c in (0.1, 0.3, 0.7, 0.9)] == [True, True, False, False]


def test_its_inverse_is_that_of_what_it_saw(env: SyneraReplayEnv) -> None:
    rule = LinUCB.new(env.schema)
    for planned in make_plan(env, 6):
        answer(env, rule, planned)
    wanted = np.linalg.inv(rule._gram + np.eye(rule._gram.shape[-1]))
    np.testing.assert_allclose(rule._inverse, wanted, atol=1e-8)
    assert rule._tokens > 0


def test_what_was_learnt_is_taken_up(env: SyneraReplayEnv) -> None:
    rule, plan = LinUCB.new(env.schema), make_plan(env, 6)
    for planned in plan:
        answer(env, rule, planned)
    resumed = rule.saved().controller(env.schema)
    assert rule.saved() == resumed.saved()
    goes_on = [[r.knobs for r in answer(env, each, p).records] for each in (rule, resumed) for p in plan]
    assert goes_on[: len(plan)] == goes_on[len(plan) :]


def test_a_batch_is_decided_and_nothing_is_learnt_of_it() -> None:
    rule = LinUCB.new(SCHEMA)
    actions, state = rule.predict(np.stack([seen(0.1), seen(0.9)]))
    assert actions.shape == (2, len(SCHEMA.rows))
    rule.settled(SimpleNamespace(), Preference(), state)
    assert rule.saved() == LinUCB.new(SCHEMA).saved()


def test_states_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingError, match="linucb of 3 entries has 1 and 0 sums"):
        LinUCBState(3, (1.0,))
    with pytest.raises(SettingError, match="has learnt of 2 entries"):
        LinUCBState(2, (0.0,) * 8, (0.0,) * 4).controller(SCHEMA)


# ---------------------------------------------------------------- what a chunk is worth


def records(env: SyneraReplayEnv, preset: str) -> list[Any]:
    rule = FixedRule(env.schema.presets[preset], env.schema)
    return [r for planned in make_plan(env, 6) for r in answer(env, rule, planned).records]


def test_trusted_are_what_the_llm_said_and_of_what_is_kept_what_it_would_be_expected_to(env: SyneraReplayEnv) -> None:
    for record in records(env, "always"):
        assert trusted_tokens(record) == len(record.committed)
    for record in records(env, "never"):
        kept, wanted = 1.0, 0.0
        for token in record.draft.tokens:
            kept *= token.confidence
            wanted += kept
        assert trusted_tokens(record) == pytest.approx(wanted)
        assert trusted_tokens(record) < len(record.committed)


def test_throughput_is_a_share_and_utility_is_in_the_reward_s_units(env: SyneraReplayEnv) -> None:
    preference = Preference(latency=0.3)
    for record in [*records(env, "always"), *records(env, "never")]:
        rate = trusted_tokens(record) / record.cost.seconds / MOST_TOKENS_PER_SECOND
        assert throughput(record) == pytest.approx(min(1.0, rate))
        terms = reward_terms(record.cost, trusted_tokens(record) / 40, preference)
        assert utility(record, preference, 40.0) == pytest.approx(sum(terms.values()))
