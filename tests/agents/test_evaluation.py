"""Plans that visit prompts evenly, and answers that are the same whenever they are planned the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from agents.evaluation import answer, evaluate, make_plan
from agents.registry import controller
from agents.rules import FixedRule, RandomRule
from synera_env import Preference, SettingError
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import ALWAYS
from tests.support.cuts import without
from tests.support.recorded import GPU, LINKS, PHONE, Recorded


@pytest.mark.parametrize("answers", [1, 4, 6, 13])
def test_every_prompt_is_visited_before_any_is_visited_again(env: SyneraReplayEnv, answers: int) -> None:
    visits = Counter(p.prompt for p in make_plan(env, answers))
    assert sum(visits.values()) == answers
    counts = [visits[i] for i in range(env.prompt_count)]
    assert max(counts) - min(counts) <= 1


def test_a_plan_is_fixed_by_its_seed(env: SyneraReplayEnv) -> None:
    assert make_plan(env, 12, seed=0) == make_plan(env, 12, seed=0)
    assert make_plan(env, 12, seed=0) != make_plan(env, 12, seed=1)
    seeds = [p.seed for s in (0, 1) for p in make_plan(env, 12, seed=s)]
    assert len(set(seeds)) == len(seeds)


def test_a_plan_starts_anywhere_on_every_link(env: SyneraReplayEnv) -> None:
    plan = make_plan(env, 40)
    assert {p.link for p in plan} == {0, 1}
    for planned in plan:
        assert 0 <= planned.link_offset_seconds < env.links[planned.link].seconds


def test_the_preference_of_a_plan_is_what_the_answer_is_paid_by(env: SyneraReplayEnv) -> None:
    free = Preference(latency=0, cost=0, energy=0, traffic=0)
    assert {p.preference for p in make_plan(env, 3)} == {Preference()}
    for metrics in evaluate(env, FixedRule(ALWAYS, env.schema), make_plan(env, 6, preference=free)):
        assert metrics.reward == pytest.approx(metrics.quality)


@pytest.mark.parametrize("name", ["never", "always", "random"])
def test_the_same_plan_gives_the_same_answers(env: SyneraReplayEnv, pair: Recorded, name: str) -> None:
    plan = make_plan(env, 6, seed=4)
    first = [answer(env, controller(name, env.schema), p) for p in plan]
    again = [answer(pair.env(), controller(name, env.schema), p) for p in reversed(plan)][::-1]
    assert [a.tokens for a in first] == [a.tokens for a in again]
    assert [repr(a.metrics) for a in first] == [repr(a.metrics) for a in again]  # repr, as one NaN is as good as another


def test_an_answer_comes_with_its_records_and_tokens(env: SyneraReplayEnv) -> None:
    outcome = answer(env, FixedRule(ALWAYS, env.schema), make_plan(env, 1)[0])
    assert outcome.metrics is not None
    assert outcome.tokens == tuple(t for r in outcome.records for t in r.committed)
    assert outcome.metrics.tokens == len(outcome.tokens)
    assert outcome.metrics.chunks == len(outcome.records)
    assert outcome.metrics.seconds == outcome.records[-1].committed_at


@pytest.fixture
def cut(pair: Recorded) -> SyneraReplayEnv:
    """Without the ends of the answers to the first prompt, nobody can come to one there."""
    dropped = np.zeros(pair.graphs.nodes, bool)
    dropped[: len(pair.graphs[0])] = ~np.isnan(pair.graphs[0].score)
    return SyneraReplayEnv(without(pair.graphs, dropped), LINKS, PHONE, GPU)


def test_what_the_graphs_do_not_know_is_left_out_not_invented(pair: Recorded, cut: SyneraReplayEnv) -> None:
    plan = make_plan(cut, 12)
    outcomes = {p.prompt: answer(cut, FixedRule(ALWAYS, cut.schema), p) for p in plan}
    assert outcomes[0].metrics is None
    assert all(outcomes[i].metrics is not None for i in range(1, 6))
    found = evaluate(cut, FixedRule(ALWAYS, cut.schema), plan)
    assert len(found) == 10
    kept = [p for p in plan if p.prompt != 0]
    assert repr(found) == repr(
        evaluate(pair.env(), FixedRule(ALWAYS, cut.schema), kept)
    )  # repr, as one NaN is as good as another


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"answers": 0}, r"answers=0 must be a number in 1\.\."),
        ({"answers": -3}, r"answers=-3"),
        ({"answers": 10**12}, r"answers=1000000000000"),
        ({"answers": 4, "seed": -1}, r"seed=-1 must be a number in 0\.\."),
        ({"answers": 4, "seed": 2**32}, r"seed=4294967296"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(env: SyneraReplayEnv, wrong: dict[str, int], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        make_plan(env, **wrong)


def test_random_answers_differ_between_planned_seeds(env: SyneraReplayEnv) -> None:
    planned = make_plan(env, 1)[0]
    knobs = {answer(env, RandomRule(env.schema), replace(planned, seed=s)).records[0].knobs for s in range(3)}
    assert len(knobs) == 3
