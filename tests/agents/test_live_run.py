"""A live run lies beside its training: the same tags, decisions so far, and files that cost no answer."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from agents.evaluation import Answered, answer, make_plan
from agents.live_run import LiveRun, LiveScalars, check_unused
from agents.rules import FixedRule
from agents.scalars import CONFIGURATION, GROUPS
from runtime import telemetry
from synera_env import Preference, SettingError, TraceError, synera_schema
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.telemetry import DECISIONS, read_run
from tests.support.recorded import Recorded
from tests.support.records import record

SCHEMA = synera_schema(2)
SECRET = "what nobody else may read"
LAYOUT_TAG = "custom_scalars__config__"


def live_run(folder: Path, **changes: Any) -> LiveRun:
    given: dict[str, Any] = {"controller": "always", "fingerprints": {"slm": "f"}, "configuration": {"paced": False}}
    return LiveRun(folder, SCHEMA, **given | changes)


def write(run: LiveRun, answers: Sequence[Answered], quality: float | None = None) -> None:
    """Tell a run of answers that were given before."""
    for each in answers:
        with run.answer(SECRET, 5, preference=Preference(), seed=1) as told:
            for settled in each.records:
                told.settled(settled)
            assert each.metrics is not None
            told.quality = each.metrics.quality if quality is None else quality


def events(folder: Path) -> Any:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return found


def tags(folder: Path) -> set[str]:
    """Those that training and live runs share."""
    return {tag for tag in events(folder).Tags()["scalars"] if tag.split("/")[0] in GROUPS}


@pytest.fixture(scope="module")
def answers(pair: Recorded) -> list[Answered]:
    env = pair.env()
    always = FixedRule(replace(SCHEMA.presets["always"], draft_ahead=0.0), SCHEMA)
    return [answer(env, always, planned) for planned in make_plan(env, 3)]


def test_a_live_run_has_the_tags_of_a_training_and_no_others(run: Path, answers: list[Answered], tmp_path: Path) -> None:
    with live_run(tmp_path / "live") as live:
        write(live, answers)
    assert tags(run / "tb") == tags(tmp_path / "live" / "tb")
    assert len(tags(run / "tb")) > 25
    trained, deployed = events(run / "tb"), events(tmp_path / "live" / "tb")
    assert set(deployed.Tags()["scalars"]) == tags(tmp_path / "live" / "tb")
    assert trained.Tags()["tensors"] == [LAYOUT_TAG, f"{CONFIGURATION}/text_summary"]
    assert sorted(deployed.Tags()["tensors"]) == sorted(trained.Tags()["tensors"])
    layouts = [found.Tensors(LAYOUT_TAG)[0].tensor_proto.string_val[0] for found in (trained, deployed)]
    assert layouts[0] == layouts[1]
    charts = layout_pb2.Layout.FromString(layouts[0]).category[0].chart
    for chart in (each for each in charts if each.title != "share of the gap closed"):
        for folder in (run, tmp_path / "live"):
            assert any(re.fullmatch(tag, one) for tag in chart.multiline.tag for one in tags(folder / "tb")), chart.title


def test_a_quality_that_nobody_can_tell_has_no_tag_and_the_rest_has(run: Path, answers: list[Answered], tmp_path: Path) -> None:
    with live_run(tmp_path / "live") as live:
        write(live, answers, math.nan)
    assert tags(run / "tb") - tags(tmp_path / "live" / "tb") == {"episode/quality", "episode/reward", "reward_terms/quality"}


def test_the_x_axis_is_decisions_so_far_and_the_figures_are_those_of_the_answers(
    answers: list[Answered], tmp_path: Path
) -> None:
    with live_run(tmp_path / "live") as live:
        write(live, answers)
    found = events(tmp_path / "live" / "tb")
    chunks = [len(each.records) for each in answers]
    ends = [sum(chunks[: i + 1]) for i in range(len(chunks))]
    lengths = [r.knobs.draft_length for each in answers for r in each.records]
    assert [(e.step, e.value) for e in found.Scalars("knobs/draft_length")] == list(enumerate(lengths, 1))
    for name in ("seconds", "quality", "reward", "offload_rate", "cloud_tokens"):
        wanted = [(end, pytest.approx(getattr(each.metrics, name))) for end, each in zip(ends, answers, strict=True)]
        assert [(e.step, e.value) for e in found.Scalars(f"episode/{name}")] == wanted
    terms = [found.Scalars(tag) for tag in tags(tmp_path / "live" / "tb") if tag.startswith("reward_terms/")]
    assert [sum(e.value for e in each) for each in zip(*terms, strict=True)] == pytest.approx(
        [a.metrics.reward for a in answers if a.metrics], abs=1e-5
    )


def test_the_environment_and_a_live_run_say_the_same_of_an_answer(pair: Recorded, tmp_path: Path) -> None:
    """By the environment's own infos, as a training gathers them."""
    from agents.scalars import Means

    env: SyneraReplayEnv = pair.env(preference=Preference(latency=0.7))
    means, knobs = Means(), SCHEMA.presets["threshold"]
    env.reset(seed=5)
    ended = False
    while not ended:
        *_, ended, _, info = env.advance(knobs)
        means.decided(info["knobs"])
        means.paid(info["reward_terms"])
    means.ended(info["episode_metrics"])
    with live_run(tmp_path / "live") as live, live.answer(SECRET, 5, preference=Preference(latency=0.7)) as told:
        for settled in env.session.records:
            told.settled(settled)
        told.quality = info["episode_metrics"]["quality"]
    found = events(tmp_path / "live" / "tb")
    last = {tag: found.Scalars(tag)[-1].value for tag in tags(tmp_path / "live" / "tb")}
    assert last == pytest.approx(means.take(), rel=1e-6)


def test_the_lines_are_the_answers_and_replayed_they_give_the_same_scalars(answers: list[Answered], tmp_path: Path) -> None:
    with live_run(tmp_path / "live") as live:
        write(live, answers)
    read = read_run(tmp_path / "live").answers
    assert [each.metrics() for each in read] == [each.metrics for each in answers]
    assert [tuple(t for r in each.records for t in r.committed) for each in read] == [each.tokens for each in answers]
    assert [each.begun.answer for each in read] == [1, 2, 3]
    again = LiveScalars(tmp_path, {})
    for each in read:
        again.answered(each.records, each.metrics(), each.preference)
    again.close()
    first, second = events(tmp_path / "live" / "tb"), events(tmp_path)
    for tag in tags(tmp_path / "live" / "tb"):
        assert [(e.step, e.value) for e in first.Scalars(tag)] == [(e.step, e.value) for e in second.Scalars(tag)]


def test_a_configuration_is_in_the_folder_and_in_tensorboard(tmp_path: Path) -> None:
    live_run(tmp_path / "live", configuration={"paced": True, "arguments": {"seed": 3}}).close()
    stated = json.loads((tmp_path / "live" / "config.json").read_text())
    assert (stated["schema_hash"], stated["controller"], stated["paced"]) == (SCHEMA.hash, "always", True)
    assert sorted(p.name for p in (tmp_path / "live").iterdir()) == ["config.json", DECISIONS, "tb"]
    (text,) = events(tmp_path / "live" / "tb").Tensors(f"{CONFIGURATION}/text_summary")
    assert "| arguments.seed | 3 |" in text.tensor_proto.string_val[0].decode()


@pytest.mark.parametrize("kept", [False, True])
def test_a_prompt_is_written_only_where_it_is_asked_for(kept: bool, answers: list[Answered], tmp_path: Path) -> None:
    with live_run(tmp_path / "live", keep_prompts=kept) as live:
        write(live, answers)
        with pytest.raises(ValueError, match=SECRET), live.answer(SECRET, 5, preference=Preference()):
            raise ValueError(f"the prompt {SECRET!r} is too long")
    content = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert [p.name for p, each in content.items() if SECRET.encode() in each] == ([DECISIONS] if kept else [])
    read = read_run(tmp_path / "live").answers
    assert {each.begun.prompt for each in read} == {SECRET if kept else None}
    assert {each.begun.prompt_sha256 for each in read} == {telemetry.prompt_hash(SECRET)}


def interrupted(told: Any) -> None:
    told.settled(record())
    raise KeyboardInterrupt


def test_an_answer_that_is_given_up_says_why_and_is_shown_as_far_as_it_came(tmp_path: Path) -> None:
    with live_run(tmp_path / "live") as live:
        with pytest.raises(KeyboardInterrupt), live.answer(SECRET, 5, preference=Preference()) as told:
            interrupted(told)
        with live.answer(SECRET, 5, preference=Preference()) as told:
            told.settled(record())
    given_up, whole = read_run(tmp_path / "live").answers
    assert given_up.ended is not None
    assert (given_up.ended.error, len(given_up.records), given_up.whole) == ("KeyboardInterrupt", 1, False)
    assert whole.whole
    found = events(tmp_path / "live" / "tb")
    assert [e.step for e in found.Scalars("knobs/draft_length")] == [1, 2]
    assert [e.step for e in found.Scalars("episode/seconds")] == [2]


def test_answers_side_by_side_are_told_apart(answers: list[Answered], tmp_path: Path) -> None:
    with live_run(tmp_path / "live") as live:
        threads = [threading.Thread(target=write, args=(live, [each] * 4)) for each in answers]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    read = read_run(tmp_path / "live").answers
    assert sorted(each.begun.answer for each in read) == list(range(1, 13))
    assert all(each.whole for each in read)
    wanted = sorted([asdict(each.metrics)["seconds"] for each in answers if each.metrics] * 4)
    assert sorted(each.metrics().seconds for each in read) == wanted
    steps = [e.step for e in events(tmp_path / "live" / "tb").Scalars("knobs/draft_length")]
    assert steps == list(range(1, 4 * sum(len(each.records) for each in answers) + 1))


def test_a_disk_that_is_full_costs_no_answer(
    answers: list[Answered], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with live_run(tmp_path / "live") as live:
        write(live, answers[:1])
        with monkeypatch.context() as patched:
            patched.setattr(telemetry.os, "write", full)
            write(live, answers[1:2])
        write(live, answers[2:])
        lost = live.lost
    assert lost == 2 + 2 * len(answers[1].records)  # a line and an event a step, and a line of its beginning and its end
    assert [each.message.partition(": ")[2] for each in caplog.records] == [
        "No space left on device; what cannot be written there is left out"
    ] * 2, "one of the lines, one of the events"
    read = read_run(tmp_path / "live")
    assert [(each.begun.answer, each.whole) for each in read.answers] == [(1, True), (3, True)]
    assert events(tmp_path / "live" / "tb").Scalars("episode/seconds")[-1].step == sum(len(a.records) for a in answers)


@pytest.mark.parametrize("name", [DECISIONS, "bundle", ".hidden"])
def test_a_folder_that_holds_something_is_refused_and_stays_as_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    for attempt in (check_unused, live_run):
        with pytest.raises(SettingError, match=r"holds (a live run|files) already; name another folder"):
            attempt(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TraceError, match=r"cannot write to .*name another path"):
        live_run(tmp_path / "file" / "below")
