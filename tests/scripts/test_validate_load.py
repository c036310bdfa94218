"""`synera validate-load`: a few seconds against a real verifier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.errors import SettingError
from scripts import validate_load
from scripts.validate_load import Arguments
from traces.workload.generators import Lengths, poisson
from traces.workload.store import save_workload


def test_the_model_is_near_to_a_real_verifier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Loads and shares agree; how near times are is for a machine that has nothing else to do."""
    save_workload(poisson(4.0, 60.0, seed=2, lengths=Lengths(context=500, generated=90)), tmp_path / "w.json")
    validate_load.main(Arguments(workload=tmp_path / "w.json", rate=2.0, seconds=6.0, json=tmp_path / "found.json"))
    said = capsys.readouterr().out
    assert "Thinned at random from" in said
    assert "context_tokens multiplied by" in said
    for heading in ("queue ms", "compute ms", "share ms", "load", "Kolmogorov"):
        assert heading in said
    assert "requests turned away: 0 by the verifier, 0 by the model" in said
    assert f"next: synera evaluate --workload {tmp_path / 'w.json'}" in " ".join(said.split("\n"))
    found = json.loads((tmp_path / "found.json").read_text())["compared"]
    assert set(found) == {"queue_seconds", "compute_seconds", "share_seconds", "load"}
    real, model = found["compute_seconds"]["real"], found["compute_seconds"]["model"]
    assert real["mean"] >= 0.9 * model["mean"], "a paced forward is never shorter"
    assert found["load"]["model"]["mean"] > 1.0


@pytest.mark.parametrize(
    "wrong", [{"rate": 0.0}, {"rate": float("nan")}, {"rate": 1e9}, {"seconds": 0.0}, {"seconds": 1e9}, {"seed": -1}]
)
def test_wrong_arguments_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        Arguments(**wrong)  # type: ignore[arg-type]
