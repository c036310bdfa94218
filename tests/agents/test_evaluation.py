"""Plans that visit prompts evenly, and answers that are the same whenever they are planned the same."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.base import Controller
from agents.evaluation import Answered, answer, evaluate, make_plan, reward_difference, summarise_answers, summarise_shared
from agents.registry import controller
from agents.rules import FixedRule, RandomRule
from synera_env import EpisodeMetrics, Preference, SettingError, UncoveredError
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import ALWAYS
from tests.support.recorded import GPU, LINKS, PHONE, Recorded
from traces.synera.graph import NODE_ARRAYS, GraphSet


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
    """Without the LLM's child of the first prompt's root, nobody can follow the LLM there."""
    graphs = pair.graphs
    per_graph = [{name: getattr(g, name).copy() for name in NODE_ARRAYS} | {"prompt_tokens": g.prompt_tokens} for g in graphs]
    per_graph[0]["llm_child"][0] = -1
    return SyneraReplayEnv(GraphSet.build(graphs.meta, per_graph, graphs.lens_tensors), LINKS, PHONE, GPU)


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


class Watching:
    """Keeps what a controller did."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.actions: list[NDArray[np.float32]] = []

    def predict(self, *given: Any, **named: Any) -> Any:
        action, state = self._controller.predict(*given, **named)
        self.actions.append(action)
        return action, state


@pytest.mark.parametrize("preference", [Preference(), Preference(latency=1.0, energy=0.1)])
def test_an_answer_is_worth_what_the_environment_pays_for_it(cut: SyneraReplayEnv, preference: Preference) -> None:
    """Covered or not: where it leaves the graphs it has its costs, and no quality."""
    lost = []
    for planned in make_plan(cut, 12, preference=preference):
        watching = Watching(FixedRule(ALWAYS, cut.schema))
        outcome = answer(cut, watching, planned)
        options = {name: getattr(planned, name) for name in ("prompt", "link", "link_offset_seconds", "preference")}
        cut.reset(seed=planned.seed, options=options)
        paid, ended, actions = 0.0, False, iter(watching.actions)
        while not ended:
            _, reward, terminated, truncated, _ = cut.step(next(actions))
            paid, ended = paid + reward, terminated or truncated
        assert outcome.reward == pytest.approx(paid)
        assert truncated == (outcome.metrics is None)
        if outcome.metrics is None:
            lost.append(outcome.reward)
        else:
            assert outcome.reward == outcome.metrics.reward
    assert len(lost) == 2  # those to the prompt that was cut
    assert all(reward <= 0 for reward in lost)


def test_controllers_are_compared_on_the_answers_that_all_of_them_covered() -> None:
    def answered(prompt: int, reward: float | None) -> Answered:
        metrics = None if reward is None else EpisodeMetrics(**{f.name: 1 for f in fields(EpisodeMetrics)} | {"reward": reward})
        return Answered(prompt, metrics, (), (), 0.0)

    careful = [answered(i, 0.5) for i in range(10)] + [answered(10, 0.1), answered(11, 0.1)]  # also the hard ones
    bold = [answered(i, 0.4) for i in range(10)] + [answered(10, None), answered(11, None)]  # loses them
    with pytest.warns(UserWarning, match=r"the comparison of careful, bold rests on 83% of the answers"):
        found = summarise_shared({"careful": careful, "bold": bold})
    assert (found["careful"]["reward"], found["bold"]["reward"]) == (pytest.approx(0.5), pytest.approx(0.4))
    assert [s["answers"] for s in found.values()] == [10, 10]
    assert [s["shared_rate"] for s in found.values()] == [pytest.approx(10 / 12)] * 2
    assert [s["uncovered_rate"] for s in found.values()] == [0.0, pytest.approx(2 / 12)]
    with pytest.raises(ValueError, match="one plan"):
        summarise_shared({"careful": careful, "bold": bold[::-1]})
    with pytest.raises(ValueError, match="one plan"):
        summarise_shared({"careful": careful, "bold": bold[1:]})
    with pytest.raises(UncoveredError, match="larger node budget"):
        summarise_shared({"careful": careful, "lost": [answered(i, None) for i in range(12)]})


def test_a_comparison_that_loses_little_warns_of_nothing(env: SyneraReplayEnv, recwarn: pytest.WarningsRecorder) -> None:
    plan = make_plan(env, 6)
    found = summarise_shared(
        {name: [answer(env, controller(name, env.schema), p) for p in plan] for name in ("never", "random")}
    )
    assert [s["shared_rate"] for s in found.values()] == [1.0, 1.0]
    assert not [w for w in recwarn if "rests on" in str(w.message)]


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


def test_two_controllers_are_compared_answer_by_answer_and_by_prompt() -> None:
    def answered(prompt: int, reward: float | None) -> Answered:
        metrics = None if reward is None else EpisodeMetrics(**{f.name: 1 for f in fields(EpisodeMetrics)} | {"reward": reward})
        return Answered(prompt, metrics, (), (), 0.0 if reward is None else reward)

    ours = [answered(0, 1.0), answered(0, 2.0), answered(1, 3.0), answered(2, None)]
    theirs = [answered(0, 0.0), answered(0, 1.0), answered(1, 1.0), answered(2, 5.0)]
    difference = reward_difference(ours, theirs)
    assert difference.mean == pytest.approx((1.0 + 2.0) / 2)  # prompt 0 counts once, the uncovered one not at all
    assert difference.low == pytest.approx(1.0)
    assert difference.high == pytest.approx(2.0)
    summary = summarise_answers(ours)
    assert summary["uncovered_rate"] == 0.25
    assert summary["reward"] == pytest.approx(2.0)
    with pytest.raises(ValueError, match="one plan"):
        reward_difference(ours, [answered(9, 1.0) for _ in ours])
