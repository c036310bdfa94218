"""UCBSpec and EXP3Spec: by hand, the arm that is credited, that the best arm wins, and that what is learnt can be taken up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agents.bandits import Arms, ArmState, EXP3Spec, UCBSpec
from agents.bandits.arms import DELTA
from agents.base import Learner, Seeded
from agents.evaluation import answer, make_plan
from agents.policy import ControllerPolicy
from synera_env import Preference, SettingError, synera_schema
from synera_env.synera.replay import SyneraReplayEnv
from tests.support import toy

SCHEMA = synera_schema(exits=2)
SEEN = np.zeros(len(SCHEMA.low), np.float32)
KINDS = (UCBSpec, EXP3Spec)


def paying(reward: float) -> Any:
    """A chunk that is worth that: so many trusted tokens, of a second."""
    return SimpleNamespace(judged=1, committed=(7,) * 1000, cost=SimpleNamespace(seconds=1000 / max(reward, 1e-9) / 50))


def play(rule: Arms, rounds: int, best: int, seed: int = 0) -> list[int]:
    """Let an arm pay 0.8 and the others 0.2; return the arms that settled chunks."""
    state, settled = rule.initial_state(seed), []
    for _ in range(rounds):
        _, state = rule.predict(SEEN, state)
        if state.settling >= 0:
            settled.append(state.settling)
        rule.settled(paying(0.8 if state.settling == best else 0.2), Preference(), state)
    return settled


@pytest.mark.parametrize("kind", KINDS)
def test_the_arm_that_pays_is_played_most_in_the_end(kind: type[Arms]) -> None:
    rule = kind(SCHEMA, ArmState("ucbspec" if kind is UCBSpec else "exp3spec", (2, 4), (0.5, 0.9)))
    late = play(rule, 4000, best=2)[-1000:]
    assert np.mean([arm == 2 for arm in late]) > 0.7
    assert set(play(kind(SCHEMA, rule._begun), 60, best=2)) == {0, 1, 2, 3}


@pytest.mark.parametrize("kind", KINDS)
def test_an_arm_drafts_a_chunk_and_settles_it_by_its_own_threshold(kind: type[Arms]) -> None:
    rule = kind(SCHEMA, ArmState("ucbspec" if kind is UCBSpec else "exp3spec"))
    arms = [(length, threshold) for length in (1, 2, 4, 8) for threshold in (0.5, 0.7, 0.9)]
    state, before = rule.initial_state(3), None
    for _ in range(60):
        action, state = rule.predict(SEEN, state)
        knobs = SCHEMA.knobs(action)
        assert knobs.draft_length == arms[state.drafting][0]
        if before is not None:
            assert state.settling == before
            assert knobs.confidence_threshold == pytest.approx(arms[before][1])
            rule.settled(paying(0.5), Preference(), state)
        before = state.drafting
    pulls = rule.saved().pulls
    assert sum(pulls) == 59
    assert sum(each > 0 for each in pulls) > 6


def test_of_the_first_and_the_last_chunk_nothing_is_learnt(env: SyneraReplayEnv) -> None:
    rule = UCBSpec.new(env.schema)
    chunks = [len(answer(env, rule, planned).records) for planned in make_plan(env, 6)]
    assert sum(rule.saved().pulls) == sum(max(0, count - 2) for count in chunks)


def test_ucb_s_bound_is_the_paper_s() -> None:
    rule = UCBSpec(SCHEMA, ArmState("ucbspec", (2, 4), (0.5,), (10, 1), (5.0, 0.4)))
    n, t, count = np.array([10, 1]), 11, 2
    radius = 0.5 * np.sqrt((1 + n) / n**2 * (1 + 2 * np.log(count * t**2 * (1 + n) ** 0.5 / DELTA)))
    assert int(np.argmax(np.array([0.5, 0.4]) + radius)) == 1
    assert rule._probabilities().tolist() == [0.0, 1.0]
    sure = UCBSpec(SCHEMA, ArmState("ucbspec", (2, 4), (0.5,), (10_000, 10_000), (9_000.0, 1_000.0)))
    assert sure._probabilities().tolist() == [1.0, 0.0]


def test_untried_arms_come_first() -> None:
    rule = UCBSpec(SCHEMA, ArmState("ucbspec", (2, 4), (0.5,), (3, 0), (3.0, 0.0)))
    assert rule._probabilities().tolist() == [0.0, 1.0]


def test_exp3_weighs_losses_by_how_likely_they_were_drawn() -> None:
    rule = EXP3Spec(SCHEMA, ArmState("exp3spec", (2, 4), (0.5,)))
    assert rule._probabilities() == pytest.approx([0.5, 0.5])
    rule._learn(0, 0.25, 0.5)
    assert rule.saved().sums == pytest.approx((1.5, 0.0))
    weights = np.exp(-np.sqrt(np.log(2) / (2 * 2)) * np.array([1.5, 0.0]))  # chunk 2 of 2 arms
    assert rule._probabilities() == pytest.approx(weights / weights.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seeds_give_the_same_and_what_was_learnt_is_taken_up(env: SyneraReplayEnv, kind: type[Arms]) -> None:
    plan = make_plan(env, 12)
    one, other = kind.new(env.schema), kind.new(env.schema)  # type: ignore[attr-defined]
    first = [[r.knobs for r in answer(env, one, p).records] for p in plan]
    assert first == [[r.knobs for r in answer(env, other, p).records] for p in plan]
    assert one.saved() == other.saved()
    resumed = one.saved().controller(env.schema)
    assert type(resumed) is kind
    again = [[r.knobs for r in answer(env, one, p).records] for p in plan]
    assert [[r.knobs for r in answer(env, resumed, p).records] for p in plan] == again
    assert again != first  # it has learnt


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_told_by_the_policy_that_deploys_it(kind: type[Arms]) -> None:
    rule = kind.new(SCHEMA)  # type: ignore[attr-defined]
    assert isinstance(rule, Learner)
    assert isinstance(rule, Seeded)
    policy = ControllerPolicy(rule, SCHEMA)
    for _ in range(3):
        policy.act(SEEN)
    assert sum(rule.saved().pulls) == 0  # nobody said how these turned out


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"lengths": (2,), "thresholds": (0.5,)}, "two arms"),
        ({"pulls": (1, 2)}, "pulls of a bandit of 12 arms has 2"),
        ({"sums": (1.0,)}, "sums of a bandit of 12 arms has 1"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(state: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        ArmState("ucbspec", **state)


def test_a_system_without_the_knobs_is_one_line() -> None:
    with pytest.raises(SettingError, match="the system tea"):
        UCBSpec.new(toy.SCHEMA)
