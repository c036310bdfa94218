"""When training stops: weights are held against the best rule on the same answers, and against themselves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.logger import Logger

from agents.comparison import reward_difference
from agents.evaluation import Answered, PlannedAnswer, answer_all, make_plan
from agents.learning import judge as judging
from agents.learning.around import Around
from agents.learning.judge import MINUS_RULE, Judge, Stop, best_rival
from agents.learning.run import train
from agents.registry import rules
from synera_env import SettingError
from tests.support.recorded import TINY_RUN, Recorded


@pytest.fixture
def plan(pair: Recorded) -> list[PlannedAnswer]:
    return make_plan(pair.env(), 12)


class Told(Logger):
    """What TensorBoard would be told."""

    def __init__(self) -> None:
        super().__init__(None, [])
        self.values: dict[str, list[float]] = {}

    def record(self, key: str, value: Any, exclude: Any = None) -> None:
        self.values.setdefault(key, []).append(value)


def judged(
    pair: Recorded, plan: list[PlannedAnswer], gains: Sequence[float], stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> tuple[Judge, Told]:
    """A judge of weights that earn so much more than the best rule in each answer, validation by validation."""
    env, told = pair.env(), Told()
    rival = best_rival(env, plan)
    assert rival is not None
    waiting = iter(gains)

    def answered(*_: Any) -> list[Answered]:
        gain = next(waiting)
        return [replace(a, metrics=replace(a.metrics, reward=a.metrics.reward + gain)) for a in rival.answered if a.metrics]

    monkeypatch.setattr(judging.Rows, "answers", answered)
    judge = Judge(env, plan, rules(env.schema)["never"], rival, stop)
    for number in range(len(gains)):
        judge.measure(number * 10, dict, told)
        judge.best.best_weights = judge.best.best_weights or {"some": None}  # type: ignore[dict-item]
        if judge.stopped:
            break
    return judge, told


def test_the_rule_to_beat_is_the_best_on_the_plan_one_that_is_named_included(pair: Recorded, plan: list[PlannedAnswer]) -> None:
    env = pair.env()
    worth = {name: judging.worth(answer_all(env, rule, plan)) for name, rule in rules(env.schema).items()}
    rival = best_rival(env, plan)
    assert rival is not None
    assert (rival.name, rival.reward) == (max(worth, key=worth.__getitem__), max(worth.values()))
    named = [f"confidence={level}" for level in (0.2, 0.4, 0.6, 0.8)]
    stronger = best_rival(env, plan, named)
    assert stronger is not None
    assert stronger.reward >= rival.reward
    with pytest.raises(SettingError, match="no controller 'nope'"):
        best_rival(env, plan, ["nope"])


def test_it_stops_once_the_interval_lies_above_the_best_rule(
    pair: Recorded, plan: list[PlannedAnswer], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, told = judged(pair, plan, [-0.1, 0.0, 0.05, 0.5], Stop("beats-rules"), monkeypatch)
    assert judge.stopped is not None
    assert "beats the rule" in judge.stopped
    assert judge.best.beat_at is not None
    assert judge.best.beat_at[0] == 20
    assert told.values[MINUS_RULE] == pytest.approx([-0.1, 0.0, 0.05])
    ends = (told.values[f"{MINUS_RULE}{end}"] for end in ("_low", "", "_high"))
    for low, mean, high in zip(*ends, strict=True):
        assert low <= mean + 1e-9
        assert mean <= high + 1e-9
    said = judge.said()
    assert said["best_rule"]["name"] == judge.rival.name  # type: ignore[union-attr]
    assert said["beat_rules"]["steps"] == 20


def test_it_goes_on_where_it_is_not_asked_to_stop_and_notes_the_first_time(
    pair: Recorded, plan: list[PlannedAnswer], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, _ = judged(pair, plan, [0.1, 0.2, 0.3], Stop(), monkeypatch)
    assert judge.stopped is None
    assert judge.best.beat_at is not None
    assert (judge.best.beat_at[0], judge.best.best_steps) == (0, 20)


def test_a_mean_above_the_rule_is_not_enough(
    pair: Recorded, plan: list[PlannedAnswer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better on one prompt alone: the interval holds zero."""
    env = pair.env()
    rival = best_rival(env, plan)
    assert rival is not None
    lucky = [
        replace(a, metrics=replace(a.metrics, reward=a.metrics.reward + (1.0 if a.prompt == plan[0].prompt else -0.01)))
        for a in rival.answered
        if a.metrics
    ]
    minus = reward_difference(lucky, rival.answered)
    assert minus.mean > 0.05
    assert minus.low <= 0.0
    monkeypatch.setattr(judging.Rows, "answers", lambda *_: lucky)
    judge = Judge(env, plan, rules(env.schema)["never"], rival, Stop("beats-rules"))
    judge.measure(0, dict, Told())
    assert (judge.stopped, judge.best.beat_at) == (None, None)


def test_patience_counts_validations_since_the_best(
    pair: Recorded, plan: list[PlannedAnswer], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, told = judged(pair, plan, [-0.5, -0.6, -0.4, -0.45, -0.44, -0.3], Stop(patience=2), monkeypatch)
    assert judge.stopped == "2 validations in a row brought nothing better"
    assert len(told.values[MINUS_RULE]) == 5
    assert judge.best.best_steps == 20


@pytest.mark.parametrize(("seconds", "stopped", "validations"), [(1e-6, "1e-06 s are over", 1), (1e6, None, 3)])
def test_it_stops_at_the_first_validation_after_its_seconds(
    seconds: float,
    stopped: str | None,
    validations: int,
    pair: Recorded,
    plan: list[PlannedAnswer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge, told = judged(pair, plan, [-0.5, -0.4, -0.3], Stop(seconds=seconds), monkeypatch)
    assert judge.stopped == stopped
    assert len(told.values[MINUS_RULE]) == validations


def test_a_training_that_gains_nothing_stops_early_exports_and_says_why(
    pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "mean_of", lambda *_: 0.5)
    recipe = replace(TINY_RUN, steps=2048, patience=2)
    bundle = train(lambda p: pair.env(preference=p), pair.env(), recipe, tmp_path / "run", Around())
    stated = json.loads((tmp_path / "run" / "config.json").read_text())
    steps = [json.loads(line)["steps"] for line in (tmp_path / "run" / "validation.jsonl").read_text().splitlines()]
    assert steps == [0, recipe.validate_every, 2 * recipe.validate_every]
    assert "2 validations in a row brought nothing" in stated["stopped"]
    assert bundle.is_dir()
    assert stated["best_rule"]["name"] in rules(pair.env().schema)
