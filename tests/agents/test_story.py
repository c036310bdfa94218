"""What TensorBoard is told beside the curves: read back from the files as TensorBoard reads them."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.evaluation import Answered, answer_all, make_plan
from agents.rules import FixedRule
from agents.story import Story, chosen, sights
from synera_env import Knobs, SettingError, synera_schema
from synera_env.synera.schema import ALWAYS, NEVER, THRESHOLD
from tests.support.recorded import Recorded

SCHEMA = synera_schema(2)


@pytest.fixture
def answered(pair: Recorded) -> dict[str, list[Answered]]:
    env = pair.env()
    plan = make_plan(env, 6)
    presets = {"never": NEVER, "always": ALWAYS, "threshold": THRESHOLD}
    return {name: answer_all(env, FixedRule(knobs, SCHEMA), plan) for name, knobs in presets.items()}


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"histograms": 0})
    found.Reload()
    return found


def test_gaps_are_shares_of_the_way_from_the_best_rule_to_the_bound(
    answered: dict[str, list[Answered]], tmp_path: Path
) -> None:
    rewards = {name: sights(each)["reward"] for name, each in answered.items()}
    policy, worst = (of(rewards, key=lambda name: rewards[name]) for of in (max, min))
    others, best = {worst: answered[worst]}, rewards[worst]
    story = Story(tmp_path, others, {"clairvoyant": best + 4 * (rewards[policy] - best), "informed": best - 0.1})
    told = story.validated(128, answered[policy])
    story.close()
    assert told["story/best_rule"] == best < told["story/reward"]
    assert math.isclose(told["gaps/clairvoyant_closed"], 0.25)
    assert "gaps/informed_closed" not in told  # it is no bound
    found = read(tmp_path)
    assert {tag: found.Scalars(tag)[0].value for tag in told} == pytest.approx(told, rel=1e-5)
    assert {found.Scalars(tag)[0].step for tag in told} == {128}


def test_knobs_are_shown_as_they_were_chosen(answered: dict[str, list[Answered]], tmp_path: Path) -> None:
    story = Story(tmp_path, {})
    for steps, name in enumerate(("never", "always")):
        story.validated(steps, answered[name])
    story.close()
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


def test_the_picture_the_layout_and_the_settings_are_there(answered: dict[str, list[Answered]], tmp_path: Path) -> None:
    story = Story(tmp_path, {"never": answered["never"]})
    story.validated(1, answered["threshold"])
    story.ended({"steps": 3, "links": ("a", "b")}, 0.5)
    found = read(tmp_path)
    (picture,) = found.Images("pareto")
    assert picture.encoded_image_string.startswith(b"\x89PNG")
    assert picture.width > picture.height > 100
    tags = found.Tags()
    assert "custom_scalars__config__" in tags["tensors"]
    assert found.Scalars("hparam/validation_reward")[0].value == 0.5
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []  # one run


def test_answers_that_were_lost_tell_nothing(answered: dict[str, list[Answered]], tmp_path: Path) -> None:
    lost = [Answered(each.prompt, each.kind, None, each.records, each.tokens) for each in answered["never"]]
    story = Story(tmp_path, {"never": lost})
    assert story.validated(1, lost) == {}
    assert "story/best_rule" not in story.validated(2, answered["always"])
    story.close()
    assert chosen(lost) == {}
    assert [event.step for event in read(tmp_path).Scalars("story/reward")] == [2]


def test_a_bound_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"bounds=\['oracle'\] must be of clairvoyant, informed"):
        Story(tmp_path, {}, {"oracle": 1.0})
