"""`synera train` as a user starts it: names, what it says, and what it leaves where."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from agents.learning.recipe import Recipe
from runtime.errors import SettingError, UncoveredError
from scripts import train
from scripts.train import Arguments
from tests.support.recorded import GPU, PHONE, TINY_RUN, Recorded, recorded, tiny_training
from traces.workload.generators import poisson
from traces.workload.store import save_workload

SCRIPTS = Path(train.__file__).parent


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture
def files(pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with graphs and profiles in a place whose name needs quotes."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my [bold] files"
    for split in ("train", "validation", "test"):
        pair.graphs.save(folder / "graphs" / f"{split}.safetensors")
    PHONE.save(folder / "phone.json")
    GPU.save(folder / "gpu.json")
    return folder


def arguments(files: Path, **more: Any) -> Arguments:
    world = {"graphs": files / "graphs", "device_profile": files / "phone.json", "cloud_profile": files / "gpu.json"}
    return Arguments(**{"name": "mine"} | tiny_training(files) | world | more)


def script(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / "train.py"), *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", ".hidden", "..", "", "x" * 81, "a b", "[bold]", "a\nb", "ü"])
def test_a_name_that_would_lead_elsewhere_is_refused_before_anything_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match=r"^name=.* must be letters, digits and \._-, not begin with a dot"):
        train.main(Arguments(name=name, graphs=tmp_path / "nothing"))
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_refused_is_one_line(tmp_path: Path) -> None:
    done = script("--name", "../x", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == "error: name='../x' must be letters, digits and ._-, not begin with a dot, and have 1 to 80 characters\n"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["runs", "runs/mine"])
def test_a_file_where_the_run_would_go_is_named_and_kept(place: str, tmp_path: Path) -> None:
    path = tmp_path / place
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious")
    done = script("--name", "mine", "--graphs", tmp_path / "nothing", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {place} is there and is not a folder; name another run with --name, or move it\n"
    assert path.read_text() == "precious"


def test_what_it_says_leads_on_with_what_was_given(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.main(arguments(files))
    said = capsys.readouterr().out
    watched = re.search(r"^watch: tensorboard --logdir (\S+)$", said, re.MULTILINE)
    assert watched
    part = Path(watched[1]).parent
    assert (part.parent, part.name.partition(".part-")[:2]) == (Path.cwd() / "runs", ("mine", ".part-"))
    assert "bundle: runs/mine/bundle\n" in said
    assert sorted(p.name for p in Path("runs").iterdir()) == ["mine"]
    evaluate, tensorboard = (shlex.split(line) for line in said.partition("next: ")[2].splitlines())
    assert evaluate == [
        *("synera", "evaluate", "--graphs", str(files / "graphs" / "test.safetensors")),
        *("--device-profile", str(files / "phone.json"), "--cloud-profile", str(files / "gpu.json")),
        *("--bundle", "runs/mine/bundle"),
    ]
    assert tensorboard == ["tensorboard", "--logdir", "runs/mine/tb"]
    assert list(Path("runs/mine/tb").iterdir())
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "evaluate.py"), *evaluate[2:], "--answers", "2"],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_run_never_takes_the_place_of_the_graphs_that_it_is_trained_on(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the path is written like."""
    Path("runs").mkdir()
    Path("runs/mine").symlink_to(files / "graphs")
    before = sorted((files / "graphs").iterdir())
    for graphs in (Path("runs/mine"), Path("runs/../runs/mine"), files / "graphs"):
        with pytest.raises(SettingError, match="the run mine would replace the graphs in runs/mine; name another run"):
            train.main(Arguments(name="mine", graphs=graphs))
    assert sorted((files / "graphs").iterdir()) == before


def test_defaults_are_not_repeated(tmp_path: Path) -> None:
    evaluate, _ = train._next(Arguments(), tmp_path / "bundle")
    assert evaluate == f"synera evaluate --bundle {tmp_path}/bundle"


def test_test_graphs_that_are_not_there_are_to_be_recorded_first_with_the_lens_of_the_bundle(files: Path) -> None:
    (files / "graphs" / "test.safetensors").unlink()
    record, evaluate, _ = train._next(arguments(files), Path("runs/mine/bundle"))
    words = shlex.split(record)
    assert words[:8] == [
        "synera",
        "record",
        "--splits",
        "test",
        "--lens",
        "runs/mine/bundle/tables.safetensors",
        "--out",
        str(files / "graphs"),
    ]
    assert str(files / "graphs" / "test.safetensors") in shlex.split(evaluate)


@pytest.mark.parametrize("raised", [UncoveredError("no validation answer stays inside"), KeyboardInterrupt()])
def test_a_training_that_fails_says_what_is_left_and_keeps_the_run_before_it(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, raised: BaseException
) -> None:
    train.main(arguments(files))
    before = {p: p.read_bytes() for p in Path("runs/mine").rglob("*") if p.is_file()}
    capsys.readouterr()

    def fails(*_: Any, **__: Any) -> None:
        raise raised

    monkeypatch.setattr("agents.learning.run.export_bundle", fails)
    with pytest.raises(type(raised)):
        train.main(arguments(files))
    (unfinished,) = (p for p in Path("runs").iterdir() if p.name != "mine")
    said = capsys.readouterr().out
    assert f"{unfinished.name}; the run before it is still in runs/mine" in said
    assert "next:" not in said
    assert re.search(rf"^go on: synera train .*--resume runs/{unfinished.name}$", said, re.MULTILINE)
    assert sorted(p.name for p in unfinished.iterdir()) == ["checkpoint.safetensors", "config.json", "tb", "validation.jsonl"]
    assert {p: p.read_bytes() for p in Path("runs/mine").rglob("*") if p.is_file()} == before


def test_a_controller_is_trained_in_a_cloud_that_others_use(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_workload(poisson(2.0, 30.0), files / "others.json")
    train.main(arguments(files, workload=files / "others.json"))
    said = capsys.readouterr().out
    assert f"--workload '{files / 'others.json'}'" in said
    stated = next(path.read_text() for path in Path("runs/mine").glob("*.json") if "cloud_load" in path.read_text())
    assert stated.count('"cloud_load": "poisson-2"') == 2, "training and validation"


def test_an_interrupted_training_goes_on_by_the_line_that_it_prints(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("agents.learning.run.export_bundle", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train.main(arguments(files))
    line = re.search(r"^go on: synera train (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert line
    with pytest.raises(SettingError, match="leave out --seed"):
        train.main(tyro.cli(Arguments, args=[*shlex.split(line[1]), "--seed", "5"]))
    train.main(tyro.cli(Arguments, args=shlex.split(line[1])))
    said = capsys.readouterr().out
    assert "bundle: runs/mine/bundle\n" in said
    assert [path.name for path in Path("runs").iterdir()] == ["mine"]
    steps = [json.loads(line)["steps"] for line in Path("runs/mine/validation.jsonl").read_text().splitlines()]
    assert steps == [0, 128, 256, 384]


def test_settings_are_the_agents_a_files_or_changed_one_by_one(files: Path) -> None:
    assert Arguments(agent="dqn").recipe() == Recipe.of("dqn")
    told = tyro.cli(
        Arguments,
        args=[
            "--agent",
            "ppo",
            "--settings",
            str(tiny_training(files)["settings"]),
            "--set",
            "learning_rate=2e-4",
            "--set",
            "actions=choices",
        ],
    )
    assert told.recipe().settings == replace(TINY_RUN.settings, learning_rate=2e-4, actions="choices")
    assert (told.recipe().steps, Arguments(agent="counterfactual").recipe().steps) == (400_000, 400)
