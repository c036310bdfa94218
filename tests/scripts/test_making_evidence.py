"""The commands that make evidence (record, measure-profiles, train-pair): what they refuse before any work, and what they say."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from agents.rules import FIGURES
from agents.utility import LINEAR
from runtime.errors import CheckpointError, SettingError
from scripts import evaluate, measure_profiles, record, train, train_pair
from tests.support.graphs import tiny_prompts
from tests.support.published_figures import published_figures
from tests.support.recorded import recorded as recorded_pair
from traces import bundled
from traces.errors import TraceError
from traces.profile import DeviceProfile
from traces.synera.graph import GraphSet


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: record.Arguments(splits=()), "splits is empty; name some of train, validation, test"),
        (lambda: record.Arguments(splits=("test", "test")), "splits=test test names one twice"),
        (lambda: record.Arguments(splits=("tset",)), "splits='tset' is not one of train, validation, test"),  # type: ignore[arg-type]
        (lambda: record.Arguments(per_kind=0), r"per_kind=0 must be a number in 1\.\.100000"),
        (lambda: record.Arguments(per_kind=10**9), "per_kind=1000000000 must be"),
        (lambda: record.Arguments(node_budget=0), "node_budget=0 must be"),
        (lambda: record.Arguments(node_budget=-1), "node_budget=-1 must be"),
        (lambda: record.Arguments(max_new_tokens=0), "max_new_tokens=0 must be"),
        (lambda: record.Arguments(threads=0), "threads=0 must be"),
        (lambda: record.Arguments(score="f1", prompts=Path("p")), "score='f1' is not one of agreement-f1"),
        (lambda: record.Arguments(score="token-f1"), "name them with --prompts FILE"),
        (lambda: record.Arguments(system_message="Be brief."), "are of a chat; add --chat"),
        (lambda: record.Arguments(thinking=True), "are of a chat; add --chat"),
        (lambda: record.Arguments(chat=True, bos=False), "leave out --no-bos, or --chat"),
        (lambda: measure_profiles.Arguments(repetitions=0), "repetitions=0 must be"),
        (lambda: measure_profiles.Arguments(threads=0), "threads=0 must be"),
        (lambda: measure_profiles.Arguments(threads=10**400), "threads=1000"),
        (lambda: train_pair.Arguments(slm_steps=0), "slm_steps=0 must be"),
        (lambda: train_pair.Arguments(llm_steps=-5), "llm_steps=-5 must be"),
        (lambda: train_pair.Arguments(test_prompts=0), "test_prompts=0 must be"),
        (lambda: train_pair.Arguments(freedom=1.01), r"freedom=1\.01 must be a number in 0\.\.1"),
        (lambda: train_pair.Arguments(freedom=float("nan")), "freedom=nan must be"),
    ],
)
def test_arguments_are_refused_before_anything_is_loaded(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()


@pytest.fixture
def without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model can be loaded."""
    from traces.synera.record_models import Models

    monkeypatch.delattr(Models, "load")


@pytest.mark.usefixtures("without_models")
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no prompts at .*prompts.txt; write a text file there"),
        (b"", "holds 0 distinct prompts; write at least 3"),
        (b"\n \n\n", "holds 0 distinct prompts"),
        (b"one\n\xff\ntwo", "is not text in UTF-8: line 2"),
        (b"a\nb\n" + b"x" * 1_000_001, "line 3 has 1000001 characters"),
        (b'{"prompt": "a"}\n', r"holds JSON; name it with the ending \.jsonl"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused_before_models_are_loaded(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((TraceError, SettingError), match=message):
        record.main(record.Arguments(prompts=path, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("without_models")
def test_a_lens_that_is_none_is_refused_before_models_are_loaded(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no usable lens in"):
        record.main(record.Arguments(lens=tmp_path / "none", out=tmp_path / "out"))


def recorded(tmp_path: Path, slm: Path, llm: Path, **more: Any) -> Path:
    out = tmp_path / "out [1]"
    record.main(record.Arguments(slm=slm, llm=llm, out=out, max_new_tokens=2, threads=1, per_kind=1, **more))
    return out


def following(text: str) -> list[list[str]]:
    """The commands that an output names as the next ones, as a shell reads them."""
    found = [line.partition("next: ")[2] for line in text.splitlines() if "next: synera " in line]
    return [shlex.split(command) for command in found]


def test_own_models_on_the_bundled_tasks_are_remarked(
    tmp_path: Path, tiny_slm: Path, tiny_llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = recorded(tmp_path, tiny_slm, tiny_llm)
    said = capsys.readouterr().out
    assert "note: these are not the bundled models, and without --prompts they are recorded on the bundled tasks" in said
    assert following(said) == [["synera", "train", "--name", "own", "--graphs", str(out)]]
    deploy = shlex.join(["synera", "deploy", "--slm", str(tiny_slm), "--graphs", str(out / "test.safetensors")])
    assert f"live: synera serve --model {tiny_llm}\n      {deploy}   # in another terminal\n" in said
    assert {p.stem for p in out.iterdir()} == {"train", "validation", "test"}
    for path in out.iterdir():
        graphs = GraphSet.load(path)
        assert (graphs.meta.notes["slm"], graphs.meta.notes["llm"]) == (str(tiny_slm), str(tiny_llm))
        shares = graphs.meta.coverage
        assert f"{shares['random']:.4f}" in said
    assert "answers inside: random" in said
    assert any(f.name == "graphs" for f in fields(train.Arguments))


def test_own_prompts_are_not_remarked(
    tmp_path: Path, tiny_slm: Path, tiny_llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(p.text for p in tiny_prompts()))
    recorded(tmp_path, tiny_slm, tiny_llm, prompts=tmp_path / "prompts.txt")
    assert "note:" not in capsys.readouterr().out


def test_the_bundled_pair_is_not_remarked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A copy is the same models."""
    out = recorded(tmp_path, bundled.PAIR / "slm", bundled.PAIR / "llm", splits=("test",))
    said = capsys.readouterr().out
    assert "note:" not in said
    assert "live:" not in said
    assert not {"slm", "llm"} & set(GraphSet.load(out / "test.safetensors").meta.notes)
    assert following(said) == [["synera", "evaluate", "--graphs", str(out / "test.safetensors")]]
    assert any(f.name == "graphs" for f in fields(evaluate.Arguments))


def test_splits_that_training_lacks_are_named(
    tmp_path: Path, tiny_slm: Path, tiny_llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = recorded(tmp_path, tiny_slm, tiny_llm, splits=("train",))
    lens = shlex.quote(str(out / "train.safetensors"))
    assert f"next: the same command with --splits validation --lens {lens}, then synera train" in capsys.readouterr().out


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, tiny_slm: Path, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from traces.synera.record import Recorder

    monkeypatch.delattr(Recorder, "record")
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/below", "n" * 300):
        with pytest.raises(TraceError, match=r"cannot write to .*; name another path"):
            record.main(record.Arguments(slm=tiny_slm, llm=tiny_llm, out=tmp_path / place, per_kind=1))
        with pytest.raises(TraceError, match=r"cannot write to .*; name another path"):
            measure_profiles.main(measure_profiles.Arguments(slm=tiny_slm, llm=tiny_llm, out=tmp_path / place, repetitions=1))


# ---------------------------------------------------------------- profiles


def measured(tmp_path: Path, slm: Path, llm: Path, **more: Any) -> DeviceProfile:
    arguments = measure_profiles.Arguments(slm=slm, llm=llm, out=tmp_path / "profiles", repetitions=1, **more)
    measure_profiles.main(arguments)
    return DeviceProfile.load(tmp_path / "profiles" / "measured-device.json")


def test_measured_energy_is_that_of_the_bundled_phone(
    tmp_path: Path, tiny_slm: Path, tiny_llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    device, phone = measured(tmp_path, tiny_slm, tiny_llm), DeviceProfile.load(bundled.profile("phone"))
    assert (device.busy_watts, device.wait_watts) == (phone.busy_watts, phone.wait_watts) != (0.0, 0.0)
    assert "those of the profile 'phone'" in device.source
    said = capsys.readouterr().out
    folder = tmp_path / "profiles"
    paths = ("--device-profile", str(folder / "measured-device.json"), "--cloud-profile", str(folder / "measured-cloud.json"))
    assert following(said) == [["synera", "train", *paths]]
    assert "note:" not in said


def test_profiles_are_derived_from_published_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = published_figures(tmp_path)
    measure_profiles.main(measure_profiles.Arguments(published=figures, out=tmp_path / "derived"))
    said = capsys.readouterr().out
    assert "derived/phone.json: call_ms 0, layer_ms " in said
    assert "all: 3 timings, R^2 1.0000" in said
    names = {path.stem for path in (tmp_path / "derived").iterdir()}
    assert {"phone", "gpu", "another-qwen2.5-1.5b-q4-k-m", "llama-3.1-70b-instruct-h100-x4"} <= names
    paths = ("--device-profile", f"{tmp_path}/derived/phone.json", "--cloud-profile", f"{tmp_path}/derived/gpu.json")
    assert following(said) == [["synera", "train", *paths]]


def test_a_profile_without_energy_is_remarked(
    tmp_path: Path, tiny_slm: Path, tiny_llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stated = json.loads(bundled.profile("phone").read_text()) | dict.fromkeys(
        ("busy_watts", "wait_watts", "radio_joules_per_mb"), 0
    )
    (tmp_path / "idle.json").write_text(json.dumps(stated))
    assert not measured(tmp_path, tiny_slm, tiny_llm, energy_from=tmp_path / "idle.json").has_energy
    assert "idle.json states no energy; a reward that weighs energy will charge none" in capsys.readouterr().out


def test_a_card_states_what_one_decision_is_worth_on_graphs_of_its_pair_alone(
    tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scripts import _utility

    pair, asked = recorded_pair(tiny_llm), list[int]()
    real = _utility.measure_utility

    def measure(*given: Any) -> Any:
        asked.append(given[2])
        return real(*given)

    monkeypatch.setattr(_utility, "measure_utility", measure)
    (tmp_path / "slm").symlink_to(pair.slm)
    (tmp_path / "llm").symlink_to(pair.llm)
    lines = train_pair._worth(tmp_path, [pair.graphs] * 2)
    assert asked == [len(pair.graphs)]
    table = [line for line in lines if line.startswith("|")]
    assert {line.count("|") for line in table} == {5}
    assert [line.split("|")[1].strip() for line in table][2:] == [*FIGURES, LINEAR, "clairvoyant"]
    (tmp_path / "slm").unlink()
    (tmp_path / "slm").symlink_to(pair.llm)
    with pytest.raises(TraceError, match="cannot grow with these models: recorded with the SLM"):
        train_pair._worth(tmp_path, [pair.graphs] * 2)
