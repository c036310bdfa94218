"""`synera sweep` as a user starts it: what is trained, what goes on, what fails, and that Ray changes nothing."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from agents.contest import by_seeds
from agents.learning.settings_file import write_settings
from runtime.errors import SettingError, SyneraError
from scripts import _sweep, sweep, train
from scripts._scale import Ended, spread
from scripts._sweep import Part, Variant, reached, standing, variants
from tests.support.recorded import TINY_PPO, TINY_RUN, Recorded, recorded, split_files

_SHARED = {name: getattr(TINY_RUN, name) for name in ("steps", "envs", "validation_answers", "validate_every")}


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture
def files(pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    split_files(pair, tmp_path)
    write_settings(tmp_path / "tiny.yaml", TINY_PPO, "tiny")
    return tmp_path


def arguments(**more: Any) -> sweep.Arguments:
    """Paths as a user in that folder gives them."""
    world = {"graphs": Path("graphs"), "device_profile": Path("phone.json"), "cloud_profile": Path("gpu.json")}
    return sweep.Arguments(**{"name": "mine", "settings": (Path("tiny.yaml"),), "seeds": 2} | _SHARED | world | more)


def here(work: Any, items: Any, *given: Any, **more: Any) -> Any:
    """Stands in for processes."""
    for number, item in enumerate(items):
        yield Ended(number, work(item))


# ---------------------------------------------------------------- what is trained


def test_each_agent_setting_and_seed_is_a_run_that_evaluation_groups_by_policy() -> None:
    parts = sweep.Arguments(agent=("ppo", "a2c"), name="big", seeds=2, set=("hidden=8,16", "rollout=64")).parts()
    names = [part.arguments.name for part in parts]
    assert names[:2] == ["big-ppo-hidden8-seed0", "big-ppo-hidden8-seed1"]
    assert len(set(names)) == 8
    assert {name: policy for name, (policy, _) in by_seeds(names).items()} == {p.name: p.policy for p in parts}
    assert parts[2].arguments.set == ("hidden=16", "rollout=64")
    assert [part.arguments.seed for part in parts[:2]] == [0, 1]
    assert [part.name for part in sweep.Arguments(seeds=1).parts()] == ["ppo-seed0"]
    assert [part.name for part in sweep.Arguments(seeds=1, name="x").parts()] == ["x-seed0"]


def test_grids_are_every_combination_and_name_only_what_differs() -> None:
    files = [Path("a/slow.yaml"), Path("fast.yaml")]
    found = list(variants(files, ["hidden=8,16", "learning_rate=0.1"]))
    assert [each.label for each in found] == ["slow-hidden8", "slow-hidden16", "fast-hidden8", "fast-hidden16"]
    assert list(variants((), ())) == [Variant("", None, ())]
    assert found[1] == Variant("slow-hidden16", files[0], ("hidden=16", "learning_rate=0.1"))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"agent": ("ppo", "ppo")}, "each once"),
        ({"agent": ("ppo", "a2c")}, "settings are those of one agent"),
        ({"seeds": 0}, "seeds=0"),
        ({"at_once": 0}, "at_once=0"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        arguments(**given)
    with pytest.raises(SettingError, match="would be named 'mine-hidden8-seed0'"):
        arguments(set=("hidden=8,8",)).parts()


# ---------------------------------------------------------------- what goes on, what fails


def test_it_trains_what_is_not_finished_goes_on_with_what_was_interrupted_and_says_what_came(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process: what is finished first, then the rest."""
    monkeypatch.setattr(sweep, "spread", here)
    monkeypatch.setattr("sys.argv", ["pytest"])
    sweep.main(arguments(seeds=1))
    said = capsys.readouterr().out
    assert "1 trainings; 0 are finished, 0 go on\n" in said
    assert "next: synera evaluate --graphs graphs/test.safetensors" in said
    assert "--bundle runs/mine-seed0/bundle --scenarios mix" in said
    first = (files / "runs/mine-seed0/config.json").read_bytes()
    assert b'"synera train"' in first  # a run says how it can be made again
    interrupted = files / "runs/mine-seed1.part-0123abcd"
    shutil.copytree(files / "runs/mine-seed0", interrupted)
    shutil.rmtree(interrupted / "bundle")
    stale = files / "runs/mine-seed1.part-9999abcd"
    shutil.copytree(interrupted, stale)
    interrupted.joinpath("config.json").write_text(first.decode().replace('"seed": 0', '"seed": 1'))
    assert reached(Part("mine", train.Arguments(name="mine-seed1")))[0] == TINY_RUN.steps
    again = arguments(seeds=2)
    one = again.parts()[1]
    assert standing(one, one.arguments.recipe(), {}) == replace(one, resume=Path("runs") / interrupted.name)
    ran: list[Part] = []
    monkeypatch.setattr(sweep, "trained", lambda part: ran.append(part) or 7)
    with pytest.raises(SyneraError, match="1 of 2 trainings failed; the same command"):
        sweep.main(again)
    assert [part.resume for part in ran] == [Path("runs") / interrupted.name]  # not the one of another seed
    said = capsys.readouterr().out
    assert "2 trainings; 1 are finished, 1 go on\n" in said
    assert "mine-seed1: failed with exit code 7" in said
    assert (files / "runs/mine-seed0/config.json").read_bytes() == first
    with pytest.raises(SettingError, match=r"runs/mine-seed0 is another run, with steps=384, not 999; name another sweep"):
        sweep.main(arguments(steps=999))


def test_a_training_that_fails_ends_no_other_and_is_named_with_the_end_of_its_log(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In processes."""
    part, other = arguments(seeds=2, at_once=2).parts()
    wrong = replace(part, arguments=replace(part.arguments, against=("nope",)))
    Path("runs").mkdir()
    found = {each.number: each for each in spread(_sweep.trained, [wrong, other], 2)}
    assert {number: each.result for number, each in found.items()} == {0: 2, 1: 0}
    assert (other.folder / "bundle" / "bundle.json").is_file()
    assert any("no controller 'nope'" in line for line in _sweep.last_lines(wrong))
    sweep._say_what_failed({wrong: "failed with exit code 2"})
    said = capsys.readouterr().out
    assert "mine-seed0: failed with exit code 2; runs/mine-seed0.log ends:\n" in said
    assert re.search(r"^    error: .*no controller 'nope'", said, re.MULTILINE)


# ---------------------------------------------------------------- Ray


def test_ray_trains_the_same_weights(files: Path, ray_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["pytest"])
    sweep.main(arguments(ray="local", seeds=1))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sweep, "spread", here)
        sweep.main(arguments(name="plain", seeds=1))
    one, other = (load_file(files / "runs" / name / "checkpoint.safetensors") for name in ("mine-seed0", "plain-seed0"))
    assert list(one) == list(other)
    assert any(array.any() for array in one.values())
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)
