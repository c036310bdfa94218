"""`synera fit-rules`: what it writes is what evaluate and deploy take, and its figures are of the best on validation."""

from __future__ import annotations

from pathlib import Path

import pytest

from agents.rule_file import RuleFile
from agents.rules import LinkAware, Rejection
from agents.rules.fixed import Fixed
from agents.rules.levels import Levels
from runtime.errors import SettingError
from scripts import evaluate, fit_rules
from scripts._evaluation import Evaluation
from scripts.fit_rules import Arguments
from tests.support.recorded import GPU, PHONE, Recorded, recorded
from traces.schemas import read_json


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture
def files(pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: graphs of each split, and profiles."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "validation", "test"):
        pair.graphs.save(tmp_path / f"{split}.safetensors")
    PHONE.save(tmp_path / "phone.json")
    GPU.save(tmp_path / "gpu.json")
    return tmp_path


def arguments(**more: object) -> Arguments:
    given: dict[str, object] = {"graphs": Path(), "device_profile": Path("phone.json"), "cloud_profile": Path("gpu.json")}
    return Arguments(**given | {"answers": 6, "validation_answers": 6, "budgets": (0.5,)} | more)  # type: ignore[arg-type]


def test_every_rule_is_written_and_can_be_evaluated(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fit_rules, "DRAFTS", ((2, 1.0), (4, 1.0)))
    fit_rules.main(arguments())
    said = capsys.readouterr().out
    kinds = {"fixed": Fixed, "budget-0.5": Levels, "rejection": Rejection, "link-aware": LinkAware}
    found = {path.stem: RuleFile.load(path) for path in (files / "runs" / "rules").iterdir()}
    assert {name: type(file.rule) for name, file in found.items()} == kinds
    assert {"slm", "llm", "tokenizer", "lens"} <= set(found["fixed"].fingerprints)
    assert found["link-aware"].provenance["tried"] == 2
    assert found["link-aware"].provenance["name"] in ("drafts of 2, exit margin 1", "drafts of 4, exit margin 1")
    assert "next: synera evaluate --controller runs/rules/fixed.json runs/rules/budget-0.5.json" in said
    assert "--graphs test.safetensors" in said
    names = tuple(str(Path("runs/rules") / f"{name}.json") for name in kinds)
    evaluate.main(
        evaluate.Arguments(
            graphs=Path("test.safetensors"),
            device_profile=Path("phone.json"),
            cloud_profile=Path("gpu.json"),
            answers=6,
            controller=(*names, "staged", "linucb"),
            json=Path("out.json"),
        )
    )
    results = read_json("out.json", Evaluation, "no figures").controllers
    assert {*names, "staged", "linucb", "threshold"} <= set(results)
    assert set(results["linucb"].reward_minus) == {"threshold"}
    assert f"reward of {names[3]} minus threshold, same plan" in capsys.readouterr().out


def test_only_what_is_asked_for_is_written(files: Path) -> None:
    fit_rules.main(arguments(rules=("budget",), budgets=(0.2, 0.4), out=Path("here")))
    assert {path.name for path in Path("here").iterdir()} == {"budget-0.2.json", "budget-0.4.json"}


def test_a_rule_of_other_models_is_refused(files: Path) -> None:
    fit_rules.main(arguments(rules=("budget",), out=Path("here")))
    with pytest.raises(SettingError, match="fitted with the slm"):
        evaluate.main(evaluate.Arguments(controller=("here/budget-0.5.json",), answers=1))
