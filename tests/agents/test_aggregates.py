"""Means over prompts and seeds against hand-computed ones, the coverage of their intervals, and rliable's aggregates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rliable import metrics as rliable

from agents.aggregates import (
    LEAST_RUNS,
    Means,
    Scores,
    Task,
    aggregates_of,
    improvement_probability,
    over_seeds,
    scores_of,
)
from agents.comparison import Estimate, reward_difference
from agents.contest import ONLY, Contest
from agents.evaluation import Answered
from runtime.errors import SettingError
from synera_env import EpisodeMetrics, Preference, UncoveredError
from synera_env.mixes import Scenario


def metrics(**values: float) -> EpisodeMetrics:
    return EpisodeMetrics(**({f.name: 0.0 for f in fields(EpisodeMetrics)} | values))  # type: ignore[arg-type]


def answered(rewards: Sequence[float | None], kinds: Sequence[str] = (), **more: float) -> list[Answered]:
    """One answer to each prompt; None left the graphs."""
    kinds = kinds or ["sum"] * len(rewards)
    return [
        Answered(p, k, None if r is None else metrics(reward=r, **more), (), ())
        for p, (r, k) in enumerate(zip(rewards, kinds, strict=True))
    ]


def scenario(name: str, preference: str = "balanced") -> Scenario:
    return Scenario(name, "profile", preference, Preference())


def contest(found: Mapping[str, Mapping[str, Sequence[Sequence[float | None]]]], kinds: Sequence[str] = ()) -> Contest:
    """By controller and seed, the rewards of each scenario."""
    count = len(next(iter(next(iter(found.values())).values())))
    scenarios = tuple(scenario(f"s{i}") for i in range(count))
    return Contest(
        scenarios,
        {
            name: {
                seed: {s.name: answered(r, kinds) for s, r in zip(scenarios, rows, strict=True)} for seed, rows in of.items()
            }
            for name, of in found.items()
        },
    )


# ---------------------------------------------------------------- means


def test_means_are_over_prompts_then_scenarios_then_seeds() -> None:
    means = Means(
        contest({"mine": {"0": [[1, 2, 3], [4, 4, 4]], "1": [[0, 0, 3], [2, 2, 8]]}, "rule": {ONLY: [[1, 1, 1], [3, 3, 3]]}})
    )
    assert means.estimate("mine").mean == pytest.approx(np.mean([np.mean([2, 4]), np.mean([1, 4])]))  # type: ignore[union-attr]
    assert means.estimate("mine", seeds=["0"]).mean == pytest.approx(3)  # type: ignore[union-attr]
    assert means.estimate("mine", scenarios=["s1 / profile / balanced"]).mean == pytest.approx(4)  # type: ignore[union-attr]
    assert means.estimate("rule") == Estimate(2, 2, 2)
    difference = means.difference("mine", "rule")
    assert difference is not None
    assert difference.mean == pytest.approx(0.75)
    assert difference.low < 0.75 < difference.high


def test_one_scenario_without_seeds_is_the_paired_difference_by_prompt() -> None:
    rng = np.random.default_rng(4)
    one, other = rng.normal(size=(2, 30))
    means = Means(contest({"a": {ONLY: [one.tolist()]}, "b": {ONLY: [other.tolist()]}}))
    wanted = reward_difference(answered(one.tolist()), answered(other.tolist()))
    assert means.difference("a", "b") == wanted


def test_a_difference_is_paired_by_prompt() -> None:
    """Prompts differ far more than controllers do: the same drawn prompts leave the difference alone."""
    base = np.random.default_rng(1).normal(0, 10, 40)
    means = Means(contest({"a": {ONLY: [(base + 0.5).tolist()]}, "b": {ONLY: [base.tolist()]}}))
    difference, alone = means.difference("a", "b"), means.estimate("a")
    assert difference is not None
    assert alone is not None
    assert (difference.low, difference.high) == pytest.approx((0.5, 0.5))
    assert alone.high - alone.low > 4


def test_seeds_that_differ_widen_the_interval_by_what_five_of_them_leave_open() -> None:
    """Nothing varies but the seeds' means 0..4: the standard deviation of the mean of five draws is sqrt(2 / 5)."""
    means = np.repeat(np.arange(5.0)[:, None], 20_001, 1)
    found = over_seeds(means)
    assert found[0] == 2
    assert found[1:].std() == pytest.approx(np.sqrt(2 / 5), rel=0.03)
    assert set(np.round(found[1:] * 5, 9)) <= set(range(21))
    assert over_seeds(means[:1]).std() == 0


def test_an_interval_holds_what_it_should_in_a_simulation() -> None:
    """Seeds and prompts both drawn anew 200 times; 95 % intervals of 8 seeds and 40 prompts hold the true mean as often, less what small
    numbers of seeds take off (a bootstrap of 8 has a variance of 7/8 of what it should have).
    """
    rng, held, alone = np.random.default_rng(7), 0, 0
    for _ in range(200):
        effects = rng.normal(0, 0.3, (8, 1)) + rng.normal(0, 1.0, (1, 40)) + rng.normal(0, 0.5, (8, 40))
        found = Means(contest({"mine": {str(s): [row.tolist()] for s, row in enumerate(effects)}}))
        whole, by_prompt = found.estimate("mine"), found.estimate("mine", seeds=["0"])
        assert whole is not None
        assert by_prompt is not None
        held += whole.low <= 0 <= whole.high
        alone += by_prompt.low <= 0 <= by_prompt.high
    assert 0.89 <= held / 200 <= 0.99
    assert alone < held, "one seed's interval knows nothing of other seeds"


def test_what_is_lost_is_stood_for_and_who_keeps_nothing_has_no_mean() -> None:
    """As in comparison.py: prompts of a kind stand for those that were lost."""
    kinds = ["sum", "sum", "fact", "fact"]
    found = contest({"a": {ONLY: [[1, None, 5, 7]]}, "b": {ONLY: [[None] * 4]}}, kinds)
    means = Means(found)
    assert means.estimate("a").mean == pytest.approx((1 + 1 + 5 + 7) / 4)  # type: ignore[union-attr]
    assert means.estimate("a", kind="fact").mean == pytest.approx(6)  # type: ignore[union-attr]
    assert means.estimate("b") is None
    assert means.difference("a", "b") is None
    assert (means.uncovered("a"), means.uncovered("b")) == (0.25, 1.0)


def test_a_seed_that_keeps_nothing_leaves_its_policy_without_a_mean() -> None:
    found = Means(contest({"mine": {"0": [[1.0, 2.0]], "1": [[None, None]]}}))
    assert found.estimate("mine") is None
    assert found.estimate("mine", seeds=["0"]) is not None


def test_a_contest_in_which_answers_are_missing_is_refused() -> None:
    whole = contest({"mine": {"0": [[1.0], [1.0]]}})
    part = {"mine": {"0": {"s0 / profile / balanced": answered([1.0])}}}
    with pytest.raises(SettingError, match="'mine', seed '0', has no answers in 1 of 2 scenarios, such as 's1 / profile"):
        Contest(whole.scenarios, part)
    other: Any = {
        "mine": {"0": whole.answered["mine"]["0"]},
        "b": {ONLY: {s.name: answered([1.0, 2.0]) for s in whole.scenarios}},
    }
    with pytest.raises(ValueError, match="are not of one plan"):
        Contest(whole.scenarios, other)


# ---------------------------------------------------------------- rliable


def test_scores_are_of_runs_and_tasks_scaled_by_untrained_controllers() -> None:
    kinds = ["sum"] * 10
    rules = {"low": {ONLY: [[0.0] * 10]}, "high": {ONLY: [[2.0] * 10]}}
    policy = {str(seed): [[float(seed)] * 10] for seed in range(5)}
    scores = scores_of(contest({**rules, "mine": policy}, kinds))
    assert (scores.runs, scores.tasks, scores.left_out) == (5, (Task("s0 / profile / balanced", "sum"),), ())
    np.testing.assert_allclose(scores.matrices["mine"][:, 0], np.arange(5) / 2)  # a run is a seed
    np.testing.assert_allclose(scores.matrices["low"], 0)
    np.testing.assert_allclose(scores.matrices["high"], 1)


def test_runs_share_their_prompts_and_rules_answer_those_of_each() -> None:
    rewards = [float(p) for p in range(10)]
    scores = scores_of(contest({"a": {ONLY: [rewards]}, "b": {ONLY: [[0.0] * 10]}}))
    assert scores.runs == LEAST_RUNS
    np.testing.assert_allclose(scores.matrices["a"][:, 0] * 4.5, [2.5, 3.5, 4.5, 5.5, 6.5])  # prompts r and r + 5


def test_tasks_that_tell_nothing_are_left_out_and_named_and_a_silent_controller_takes_none_with_it() -> None:
    found = {
        "a": {ONLY: [[0.0] * 10, [1.0] * 10]},
        "b": {ONLY: [[1.0] * 10, [1.001] * 10]},
        "lost": {ONLY: [[None] * 10, [None] * 10]},
    }
    scores = scores_of(contest(found))
    assert [task.scenario for task in scores.tasks] == ["s0 / profile / balanced"]
    assert [task.scenario for task in scores.left_out] == ["s1 / profile / balanced"]
    assert scores.silent == ("lost",)
    assert set(scores.matrices) == {"a", "b"}
    with pytest.raises(UncoveredError, match="do two untrained controllers differ by"):
        scores_of(contest({"a": {ONLY: [[1.0] * 10]}, "b": {ONLY: [[1.0] * 10]}}))


def _scores(**matrices: NDArray[np.float64]) -> Scores:
    runs, tasks = next(iter(matrices.values())).shape
    return Scores(tuple(Task(str(i), "") for i in range(tasks)), (), runs, matrices, ())


def test_the_aggregates_are_rliable_s() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.6, 0.2, (5, 12)), rng.normal(0.4, 0.2, (5, 12))
    other[2, 3] = one[1, 3]
    found = aggregates_of(_scores(a=one, b=other), [("a", "b"), ("b", "a"), ("a", "gone")], resamples=400)
    assert found.iqm["a"].mean == pytest.approx(rliable.aggregate_iqm(one))
    assert found.iqm["a"].low < found.iqm["a"].mean < found.iqm["a"].high
    assert set(found.improvement) == {("a", "b"), ("b", "a")}
    assert found.improvement["a", "b"].mean == pytest.approx(rliable.probability_of_improvement(one, other))
    assert found.improvement["a", "b"].mean + found.improvement["b", "a"].mean == pytest.approx(1)
    assert found.improvement["a", "b"].low > 0.5
    share, low, high = found.profiles["a"]
    for threshold, at in zip(found.thresholds, share, strict=True):
        assert at == pytest.approx(np.mean(one > threshold))
    assert (low <= share + 1e-9).all()
    assert (share <= high + 1e-9).all()


def test_all_tasks_at_once_give_the_probability_that_rliable_finds_task_by_task() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        one, other = rng.integers(0, 4, (5, 6)).astype(float), rng.integers(0, 4, (3, 6)).astype(float)
        assert improvement_probability(one, other) == pytest.approx(rliable.probability_of_improvement(one, other))


def test_runs_are_drawn_anew_for_each_task() -> None:
    """Stratified: with two runs of 0 and 1, the mean of 400 tasks hardly varies; drawn once for all tasks it would."""
    matrix = np.repeat([[0.0], [1.0]], 400, 1)
    interval = aggregates_of(_scores(a=matrix), [], resamples=200).profiles["a"]
    at = int(np.searchsorted(np.linspace(-0.5, 1.5, 81), 0.5))
    assert interval[2][at] - interval[1][at] < 0.2
