"""What TensorBoard is told beside the curves: read back from the files as TensorBoard reads them."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3.common.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from agents.evaluation import Answered, PlannedAnswer, answer_all, make_plan
from agents.gaps import LEAST_GAP
from agents.rules import FixedRule
from agents.story import Story, chosen, sights, tensorboard
from synera_env import Knobs, Preference, SettingError, synera_schema
from synera_env.reward import TERMS
from synera_env.synera.schema import ALWAYS, NEVER, THRESHOLD
from tests.support.recorded import Recorded

SCHEMA = synera_schema(2)


@pytest.fixture
def plan(pair: Recorded) -> list[PlannedAnswer]:
    return make_plan(pair.env(), 6)


@pytest.fixture
def answered(pair: Recorded, plan: list[PlannedAnswer]) -> dict[str, list[Answered]]:
    presets = {"never": NEVER, "always": ALWAYS, "threshold": THRESHOLD}
    return {name: answer_all(pair.env(), FixedRule(knobs, SCHEMA), plan) for name, knobs in presets.items()}


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tb"), size_guidance={"histograms": 0})
    found.Reload()
    return found


def tell(folder: Path, story: Story, *validations: list[Answered]) -> list[dict[str, float]]:
    """What was told of each, at steps 0, 1, ..."""
    found = []
    with tensorboard(folder) as logger:
        for steps, each in enumerate(validations):
            found.append(story.validated(each, each, logger))
            logger.dump(steps)
    return found


def test_gaps_are_shares_of_the_way_from_the_best_rule_to_the_bound(
    plan: list[PlannedAnswer], answered: dict[str, list[Answered]], tmp_path: Path
) -> None:
    rewards = {name: sights(each)["reward"] for name, each in answered.items()}
    policy, worst = (of(rewards, key=lambda name: rewards[name]) for of in (max, min))
    others, best = {worst: answered[worst]}, rewards[worst]
    bounds = {"clairvoyant": best + 4 * (rewards[policy] - best), "informed": best + LEAST_GAP / 2}
    (told,) = tell(tmp_path, Story(plan, others, bounds), answered[policy])
    assert told["story/best_rule"] == best < told["story/reward"]
    assert told["story/bound_clairvoyant"] == bounds["clairvoyant"]
    assert math.isclose(told["gaps/clairvoyant_closed"], 0.25)
    assert "gaps/informed_closed" not in told  # there is hardly any
    found = read(tmp_path)
    assert {tag: found.Scalars(tag)[0].value for tag in told} == pytest.approx(told, rel=1e-5)


def test_the_terms_are_those_of_the_reward_by_the_preference_of_each_answer(pair: Recorded, tmp_path: Path) -> None:
    env = pair.env()
    plan = [replace(each, preference=Preference.sample(each.seed)) for each in make_plan(env, 6)]
    (told,) = tell(tmp_path, Story(plan, {}), answer_all(env, FixedRule(THRESHOLD, SCHEMA), plan))
    terms = {tag: value for tag, value in told.items() if tag.startswith("story/term_")}
    assert set(terms) == {f"story/term_{name}" for name in TERMS}
    assert math.isclose(sum(terms.values()), told["story/reward"], abs_tol=1e-6)
    assert terms["story/term_quality"] > 0 > terms["story/term_latency"]


def test_knobs_are_shown_as_they_were_chosen(
    plan: list[PlannedAnswer], answered: dict[str, list[Answered]], tmp_path: Path
) -> None:
    tell(tmp_path, Story(plan, {}), answered["never"], answered["always"])
    found = read(tmp_path)
    for knob in fields(Knobs):
        for event, name, preset in zip(
            found.Histograms(f"chosen/{knob.name}"), ("never", "always"), (NEVER, ALWAYS), strict=True
        ):
            histogram: Any = event.histogram_value
            decided = sum(len(each.records) for each in answered[name])
            wanted = SCHEMA.knobs(SCHEMA.action(preset))
            assert histogram.num == decided
            assert math.isclose(histogram.sum / decided, getattr(wanted, knob.name), abs_tol=1e-6)


def test_the_picture_the_layout_and_the_settings_are_there(
    plan: list[PlannedAnswer], answered: dict[str, list[Answered]], tmp_path: Path
) -> None:
    story = Story(plan, {"never": answered["never"]})
    with tensorboard(tmp_path) as logger:
        told = story.validated(answered["threshold"], answered["threshold"], logger)
        logger.dump(1)
        story.ended({"steps": 3, "links": ("a", "b"), "settings": {"rate": 0.5, "none": None}}, {"reward": 0.5}, logger)
        logger.dump(1)
    found = read(tmp_path)
    (picture,) = found.Images("pareto")
    assert picture.encoded_image_string.startswith(b"\x89PNG")
    assert picture.width > picture.height > 100
    assert found.Scalars("hparam/reward")[0].value == 0.5
    assert len(list((tmp_path / "tb").iterdir())) == 1  # one file, so TensorBoard follows it
    started = found.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    stated = plugin_data_pb2.HParamsPluginData.FromString(started).session_start_info.hparams
    assert {name: value.number_value or value.string_value for name, value in stated.items()} == {
        "steps": 3.0,
        "links": "('a', 'b')",
        "settings.rate": 0.5,
        "settings.none": "None",
    }
    (layout,) = found.Tensors("custom_scalars__config__")
    charts = layout_pb2.Layout.FromString(layout.tensor_proto.string_val[0]).category[0].chart
    tags = [tag for chart in charts for tag in chart.multiline.tag]
    assert all(any(re.match(tag, one) for tag in tags) for one in told if one != "story/cloud_seconds")


def test_the_file_is_closed_where_a_training_fails(tmp_path: Path) -> None:
    loggers: list[Logger] = []

    def fails() -> None:
        with tensorboard(tmp_path) as logger:
            loggers.append(logger)
            logger.record("some", 1.5)
            logger.dump(3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert [(event.step, event.value) for event in read(tmp_path).Scalars("some")] == [(3, 1.5)]
    with pytest.raises(AssertionError, match="closed"):
        loggers[0].dump(4)


def test_answers_that_were_lost_tell_nothing(
    plan: list[PlannedAnswer], answered: dict[str, list[Answered]], tmp_path: Path
) -> None:
    lost = [Answered(each.prompt, each.kind, None, each.records, each.tokens) for each in answered["never"]]
    first, second = tell(tmp_path, Story(plan, {"never": lost}), lost, answered["always"])
    assert first == {}
    assert "story/best_rule" not in second
    assert chosen(lost) == {}
    assert [event.step for event in read(tmp_path).Scalars("story/reward")] == [1]


def test_a_bound_that_nobody_knows_is_refused(plan: list[PlannedAnswer]) -> None:
    with pytest.raises(SettingError, match=r"bounds=\['oracle'\] must be of clairvoyant, informed"):
        Story(plan, {}, {"oracle": 1.0})
