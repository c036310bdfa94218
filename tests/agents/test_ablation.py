"""The ablation: levels that give the wanted rate, curves and areas of planted figures, rules that can be deployed by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents import ablation
from agents.ablation import COMMON_RATES, CRITERIA, RATES, Ablation, Watched, ablate, count_rules, levels_at
from agents.evaluation import Answered, PlannedAnswer, evaluate, make_plan
from agents.registry import controller
from agents.rules import FIGURES, ChanceRule, FixedRule
from synera_env import EpisodeMetrics, UncoveredError
from synera_env.synera.replay import SyneraReplayEnv

PROMPTS = 6


# ---------------------------------------------------------------- levels


@given(rate=st.floats(0.02, 0.95), seed=st.integers(0, 50), figures=st.sampled_from([*CRITERIA.values()]))
def test_so_many_drafts_are_doubtful_as_should_be(rate: float, seed: int, figures: tuple[str, ...]) -> None:
    values = np.random.default_rng(seed).random((2, 400)).astype(np.float32)
    seen = dict(zip(figures, values, strict=False))
    levels = levels_at(seen, figures, rate)
    each = [FIGURES[name].reaches(seen[name], levels[name]) for name in figures]
    assert np.all(each, axis=0).mean() == pytest.approx(rate, abs=0.01)
    assert np.ptp([doubtful.mean() for doubtful in each]) < 0.01  # neither figure is stricter


def test_doubtful_are_the_unsure_and_the_important() -> None:
    seen = {name: np.linspace(0, 1, 101, dtype=np.float32) for name in ("confidence", "importance")}
    assert levels_at(seen, ["confidence"], 0.2)["confidence"] == pytest.approx(0.2, abs=0.011)
    assert levels_at(seen, ["importance"], 0.2)["importance"] == pytest.approx(0.8, abs=0.011)


# ---------------------------------------------------------------- curves

BEND = {"confidence": 0.25, "importance": 1.0, "both": 0.5, "entropy": 0.25, "margin": 0.25, "random": 1.0}
"""Planted: the offload rate from which a criterion is as good as always."""


def planted(rate: float, bend: float, prompt: int) -> float:
    """Quality rises from 0.4 to 0.9 until the bend; prompts differ by as much at every rate and for every criterion."""
    return 0.4 + 0.5 * min(rate / bend, 1.0) + 0.1 * (prompt / (PROMPTS - 1) - 0.5)


@pytest.fixture
def as_planted(env: SyneraReplayEnv, monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], None]:
    """Answers whose quality is planted; what is put into the dict is lost: (criterion, prompt)."""
    lost: dict[tuple[str, int], None] = {}

    def answered(_: SyneraReplayEnv, rule: Any, on: PlannedAnswer) -> Answered:
        if isinstance(rule, Watched):
            return see(rule, on)
        if isinstance(rule, FixedRule):
            criterion, rate = "confidence", rule.knobs.offload_budget
        elif isinstance(rule, ChanceRule):
            criterion, rate = "random", rule.rate
        else:
            criterion = next(name for name, figures in CRITERIA.items() if figures == tuple(rule.levels))
            name, level = next(iter(rule.levels.items()))
            each = level if FIGURES[name].sure else 1 - level
            rate = each**2 if criterion == "both" else each
        if (criterion, on.prompt) in lost:
            return Answered(on.prompt, "", None, (), ())
        figures = {f.name: 1 for f in fields(EpisodeMetrics)}
        quality = planted(rate, BEND[criterion], on.prompt)
        return Answered(on.prompt, "", EpisodeMetrics(**figures | {"offload_rate": rate, "quality": quality}), (), ())

    def see(rule: Watched, on: PlannedAnswer) -> Answered:
        """Drafts whose figures are uniform in 0..1, so that levels are shares."""
        for share in np.linspace(0, 1, 101) if not rule.seen else ():
            observation = np.zeros(len(env.schema.low), np.float32)
            for name, figure in FIGURES.items():
                observation[env.schema.places(figure.row)] = share if name != "importance" else 37 * share % 1
            rule.predict(observation)
        return Answered(on.prompt, "", None, (), ())

    monkeypatch.setattr(ablation, "answer", answered)
    monkeypatch.setattr(ablation, "answer_all", lambda env, rule, plan: [answered(env, rule, on) for on in plan])
    return lost


def test_the_area_is_that_under_the_planted_line_and_differences_are_paired(
    env: SyneraReplayEnv, as_planted: dict[tuple[str, int], None]
) -> None:
    found = ablate(env, env, answers=4 * PROMPTS)
    assert (found.planned_answers, found.prompts, found.least_covered) == (24, PROMPTS, 1.0)
    for name, curve in found.curves.items():
        bend = BEND[name]
        assert curve.area.mean == pytest.approx(0.9 - 0.5 * bend / 2, abs=0.01)
        assert curve.area.low < curve.area.mean - 0.01  # prompts differ
        assert curve.area_minus_random.mean == pytest.approx((1 - bend) / 4, abs=0.01)
        # Each prompt is worth as much more or less whatever is done, so the difference does not depend on which are drawn.
        assert curve.area_minus_random.high - curve.area_minus_random.low < 0.001
        assert curve.area_minus_confidence.mean == pytest.approx((0.25 - bend) / 4, abs=0.01)
        for rate in COMMON_RATES:
            assert curve.quality_at[f"{rate:g}"].mean == pytest.approx(planted(rate, bend, 0) + 0.05, abs=0.03)
        rates = [point.offload_rate for point in curve.points]
        assert rates == sorted(rates)
        assert len(rates) == len(RATES) + 2
        assert (curve.points[0].rule, curve.points[-1].rule) == ("never", "always")
    assert found.best() in ("confidence", "entropy", "margin")


def test_a_rule_is_judged_on_its_own_answers(env: SyneraReplayEnv, as_planted: dict[tuple[str, int], None]) -> None:
    """What one rule loses takes nothing from the others, and those that it keeps stand for it."""
    whole = ablate(env, env, answers=PROMPTS).curves
    as_planted["importance", 5] = None
    with pytest.warns(UserWarning, match=r"what the ablation says of importance=\S+ rests on 83% of the answers, to 5 of 6"):
        found = ablate(env, env, answers=PROMPTS)
    assert (found.planned_answers, found.prompts, found.least_covered) == (6, PROMPTS, pytest.approx(5 / 6))
    assert found.curves["confidence"].points == whole["confidence"].points
    lost = [p.quality.mean for p in found.curves["importance"].points[1:-1]]
    kept = [
        np.mean([planted(p.offload_rate, BEND["importance"], i) for i in range(5)]) for p in whole["importance"].points[1:-1]
    ]
    assert lost == pytest.approx(kept)
    as_planted.update({("random", prompt): None for prompt in range(PROMPTS)})
    with pytest.raises(UncoveredError, match=r"the rule chance=0\.02 keeps no answer inside the recorded graphs"):
        ablate(env, env, answers=PROMPTS)


# ---------------------------------------------------------------- in the world


@pytest.fixture(scope="module")
def found(pair: Any) -> Ablation:
    return ablate(pair.env(), pair.env(), answers=PROMPTS)


def test_every_rule_can_be_deployed_by_its_name(env: SyneraReplayEnv, found: Ablation) -> None:
    plan = make_plan(env, PROMPTS)
    for curve in found.curves.values():
        for point in curve.points[::4]:
            again = evaluate(env, controller(point.rule, env.schema), plan)
            assert point.offload_rate == pytest.approx(np.mean([m.offload_rate for m in again]))
            assert point.quality.mean == pytest.approx(np.mean([m.quality for m in again]))
            assert point.quality.low <= point.quality.mean <= point.quality.high


def test_all_criteria_have_the_same_ends(found: Ablation) -> None:
    assert len({curve.points[0] for curve in found.curves.values()}) == 1
    assert len({curve.points[-1] for curve in found.curves.values()}) == 1
    ends = (found.curves["both"].points[0], found.curves["both"].points[-1])
    assert [end.offload_rate for end in ends] == [0.0, pytest.approx(1.0)]


def test_it_says_how_far_it_is_and_the_same_seed_gives_the_same(env: SyneraReplayEnv, found: Ablation) -> None:
    calls: list[None] = []
    again = ablate(env, env, PROMPTS, finished=lambda: calls.append(None))
    assert again == found
    assert len(calls) == count_rules()
