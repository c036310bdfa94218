"""`synera bounds`: what it writes is what a training and an evaluation of the same answers take, and no others."""

from __future__ import annotations

import re
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tyro
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.comparison import mean_of
from agents.counterfactual.informed import InformedConfig
from agents.evaluation import answer_all, make_plan
from agents.gaps import VALIDATION, Bounds
from agents.learning.settings_file import write_settings
from agents.registry import rules
from runtime.errors import SettingError
from scripts import bounds, evaluate, train
from scripts.bounds import Arguments
from synera_env import SyneraReplayEnv
from tests.support.cuts import holed
from tests.support.recorded import GPU, PHONE, TINY_PPO, Recorded, recorded, split_files
from traces import bundled


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture
def files(pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; and trees that are fitted at once."""
    monkeypatch.chdir(tmp_path)
    split_files(pair, tmp_path)
    tiny = {"rounds": 1, "answers": 3, "walks": 2, "trees": 3, "leaves": 4, "least_rows": 10, "rate": 0.4}
    monkeypatch.setattr(bounds, "InformedConfig", partial(InformedConfig, **tiny))
    return tmp_path


def arguments(**more: Any) -> Arguments:
    world = {"graphs": Path("graphs"), "device_profile": Path("phone.json"), "cloud_profile": Path("gpu.json")}
    return Arguments(**{"answers": 6, "fits": 2, "seed": 3} | world | more)


def typed(said: str, command: Any) -> Any:
    """The arguments that it says to type next."""
    words = shlex.split(re.findall(r"^next: (synera .*)$", said, re.MULTILINE)[0])
    return tyro.cli(command.Arguments, args=words[2:])


def test_a_training_takes_what_was_found_for_its_validation(
    files: Path, pair: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    bounds.main(arguments())
    said = capsys.readouterr().out
    found = Bounds.load(Path("runs/bounds.json"))
    env = SyneraReplayEnv(pair.graphs, bundled.links("validation"), PHONE, GPU)
    plan = make_plan(env, 6, 3)
    best = max(mean_of(answer_all(env, rule, plan), "reward") for rule in rules(env.schema).values())
    clairvoyant = found.bounds["clairvoyant"][VALIDATION]
    assert best <= clairvoyant <= found.made["clairvoyant_at_most"][VALIDATION]
    assert found.bounds["informed"][VALIDATION] <= found.made["clairvoyant_at_most"][VALIDATION]
    assert f"clairvoyant {clairvoyant:.3f}" in said
    write_settings(Path("tiny.yaml"), TINY_PPO, "tiny")
    given = {"settings": Path("tiny.yaml"), "steps": 128, "envs": 2, "validate_every": 128, "name": "mine"}
    trained = typed(said, train)
    assert (trained.seed, trained.validation_answers, trained.bounds) == (3, 6, Path("runs/bounds.json"))
    options = {name: getattr(trained, name) for name in vars(trained)} | given
    train.main(train.Arguments(**options))
    events = EventAccumulator("runs/mine/tb")
    events.Reload()
    assert events.Scalars("story/bound_clairvoyant")[0].value == pytest.approx(clairvoyant)
    assert len(events.Scalars("gaps/clairvoyant_closed")) == 2
    with pytest.raises(SettingError, match="were found for other answers, or in another world"):
        train.main(train.Arguments(**options | {"seed": 4, "name": "other"}))
    assert not Path("runs/other").exists()


def test_an_evaluation_takes_what_was_found_for_its_scenarios(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("links: [20, markov]\nloads: [idle, {name: ten, users: 10}]\npreferences: [balanced, cost]\n")
    bounds.main(arguments(scenarios="mine.yaml", out=Path("mine.json")))
    found = Bounds.load(Path("mine.json"))
    names = {f"{link} / {load} / {p}" for link in ("20 ms", "markov") for load in ("idle", "ten") for p in ("balanced", "cost")}
    assert set(found.plans) == set(found.bounds["informed"]) == names
    assert set(found.bounds["clairvoyant"]) == {name for name in names if "idle" in name}  # nobody plans with others' requests
    evaluated = typed(capsys.readouterr().out, evaluate)
    options = {name: getattr(evaluated, name) for name in vars(evaluated)} | {"report": Path("report")}
    evaluate.main(evaluate.Arguments(**options))
    report = Path("report/report.md").read_text()
    assert "clairvoyant" in report
    assert "informed" in report
    with pytest.raises(SettingError, match=r"the bounds of '20 ms / idle / balanced' were found for other answers"):
        evaluate.main(evaluate.Arguments(**options | {"answers": 5}))


def test_answers_that_nobody_can_plan_are_told(
    files: Path, pair: Recorded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    holed(pair.graphs, 0.6, seed=1, from_depth=3).save(Path("graphs/validation.safetensors"))
    bounds.main(arguments(grow="no", fits=1))
    without = Bounds.load(Path("runs/bounds.json")).made["answers_without_plan"][VALIDATION]
    assert 0 < without < 6
    assert f"{without} answers have no plan in what is known" in capsys.readouterr().out
    bounds.main(arguments(grow="yes", fits=1, slm=pair.slm, llm=pair.llm))  # graphs that grow are searched as far as they did
    assert Bounds.load(Path("runs/bounds.json")).made["answers_without_plan"][VALIDATION] == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workload": Path("w.csv")}, "leave out --workload"),
        ({"scenarios": "quick", "preference": "sampled"}, "leave out one of the two"),
        ({"fits": 0}, "fits=0"),
        ({"answers": 0}, "answers=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_what_makes_no_bounds_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        arguments(**given)
