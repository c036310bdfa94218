"""`synera validate-replay`: what it runs, prints and writes; the bundled pair, a few answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.errors import SettingError
from scripts import _live_world, validate_replay
from scripts._systems import BUNDLED, Bundled, SystemName
from scripts.validate_replay import Arguments
from tests.support.process import verifier_here
from tests.support.recorded import GPU, PHONE
from traces.links.generators import constant_link


@pytest.mark.parametrize(
    ("system", "wanted", "metric", "shared"),
    [
        ("synera", {"never", "always", "always, stop-and-wait"}, "uplink B error", "always"),
        ("hat", {"u-shape", "u-sarathi", "drafts", "hat-fixed", "hat-rule", "random"}, "cloud s error", "hat-fixed"),
    ],
)
def test_it_writes_figures_and_a_picture(
    system: SystemName,
    wanted: set[str],
    metric: str,
    shared: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Paced to machines that are quicker than those of the bundle: what is written does not depend on that."""
    monkeypatch.setattr(validate_replay, "_SHARED_ROUNDS", 1)
    monkeypatch.setattr(_live_world, "verifier_process", verifier_here)
    monkeypatch.setattr(validate_replay, "links_of", lambda *_: lambda split: [constant_link(rtt_ms=4.0)])
    PHONE.save(tmp_path / "phone.json")
    GPU.save(tmp_path / "gpu.json")
    quick = Bundled(BUNDLED[system].graphs, tmp_path / "phone.json", tmp_path / "gpu.json")
    monkeypatch.setattr(validate_replay, "BUNDLED", {system: quick})
    validate_replay.main(Arguments(system, answers=1, devices=(2,), out=tmp_path / "found"))
    text = capsys.readouterr().out
    head = set(text.split("one device")[1].split("u-shape" if system == "hat" else "never")[0].split())
    assert {"tokens", *metric.split()} <= head
    assert ("bytes" in head) == (system == "hat")
    assert "next: synera evaluate" in text
    figures = json.loads((tmp_path / "found/validation.json").read_text())
    assert wanted <= {v["controller"] for v in figures["alone"]}
    assert [(v["controller"], v["devices"], len(v["live_seconds"])) for v in figures["shared"]] == [(shared, 2, 2)]
    for each in (*figures["alone"], *figures["shared"]):
        found = each["agreement"]
        assert found["tokens_identical"] == 1.0, each
        assert system == "synera" or found["bytes_identical"] == 1.0, each
        assert {"seconds", "ttft_seconds", "tbt_mean_seconds"} <= set(found["replay_error"])
    assert (tmp_path / "found/validation.png").read_bytes().startswith(b"\x89PNG")


def test_each_system_has_a_folder_of_its_own() -> None:
    assert (Arguments().folder, Arguments("hat").folder) == (Path("runs/validation"), Path("runs/hat-validation"))
    assert Arguments("hat", out=Path("x")).folder == Path("x")


@pytest.mark.parametrize(
    "wrong", [{"answers": 0}, {"devices": (0,)}, {"devices": (2, 2)}, {"seed": -1}, {"devices": (1, 65)}, {"answers": 10**6}]
)
def test_wrong_arguments_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        Arguments(**wrong)  # type: ignore[arg-type]
