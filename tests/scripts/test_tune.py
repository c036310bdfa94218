"""`synera tune` side by side: rounds of trials find the same in this process, in others, and on Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from agents.learning.settings_file import write_settings
from agents.learning.tuning import STUDY, tune
from scripts import tune as script
from tests.agents.learning.test_agents import small
from tests.support.recorded import GPU, PHONE, recorded


def test_ray_finds_the_same(
    tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ray_here: None
) -> None:
    monkeypatch.chdir(tmp_path)
    pair, recipe = recorded(tiny_llm), small("ppo", steps=64, validate_every=64, envs=8)
    for split in ("train", "validation"):
        pair.graphs.save(Path(f"graphs/{split}.safetensors"))
    PHONE.save(Path("phone.json"))
    GPU.save(Path("gpu.json"))
    write_settings(Path("tiny.yaml"), recipe.settings, "tiny")
    world: dict[str, Any] = {"graphs": Path("graphs"), "device_profile": Path("phone.json"), "cloud_profile": Path("gpu.json")}
    shared = {name: getattr(recipe, name) for name in ("steps", "validate_every", "envs", "validation_answers", "seed")}
    arguments = script.Arguments(settings=Path("tiny.yaml"), trials=3, at_once=2, ray="local", **world, **shared)
    script.main(arguments)
    assert "best of 3 trials" in capsys.readouterr().out
    opened = arguments.opened()
    found = tune(opened.training, opened.validating(), arguments.recipe(), tmp_path / "here", 3, at_once=2)
    assert Path("runs/tune/ppo/best.yaml").read_bytes() == found.file.read_bytes()
    one, other = (_trials(folder) for folder in (tmp_path / "runs/tune/ppo", tmp_path / "here"))
    assert one == other
    assert len({str(params) for params, _ in one}) == 3


def _trials(folder: Path) -> list[tuple[dict[str, Any], float | None]]:
    study = optuna.load_study(study_name="settings", storage=f"sqlite:///{folder / STUDY}")
    return [(trial.params, trial.value) for trial in study.trials]
