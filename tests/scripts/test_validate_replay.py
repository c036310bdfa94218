"""`synera validate-replay`: what it runs, prints and writes; the bundled pair, a few answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.errors import SettingError
from scripts import _live_world, validate_replay
from scripts.validate_replay import Arguments
from tests.support.process import verifier_here
from tests.support.recorded import GPU, PHONE
from traces import bundled
from traces.links.generators import constant_link


def test_it_writes_figures_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paced to machines that are quicker than those of the bundle: what is written does not depend on that."""
    monkeypatch.setattr(validate_replay, "_SHARED_ROUNDS", 1)
    monkeypatch.setattr(_live_world, "verifier_process", verifier_here)
    monkeypatch.setattr(validate_replay, "links_of", lambda *_: lambda split: [constant_link(rtt_ms=10.0)])
    for name, profile in {"phone": PHONE, "gpu": GPU}.items():
        profile.save(tmp_path / f"{name}.json")
    monkeypatch.setattr(bundled, "profile", lambda name: tmp_path / f"{name}.json")
    validate_replay.main(Arguments(answers=1, devices=(2,), out=tmp_path / "found"))
    text = capsys.readouterr().out
    assert "tokens identical" in text
    assert "always, stop-and-wait" in text
    assert "next: synera evaluate" in text
    figures = json.loads((tmp_path / "found/validation.json").read_text())
    assert [v["controller"] for v in figures["alone"]][:3] == ["never", "always", "always, stop-and-wait"]
    assert [(v["controller"], v["devices"], len(v["live_seconds"])) for v in figures["shared"]] == [("always", 2, 2)]
    assert all(v["agreement"]["tokens_identical"] == 1.0 for v in (*figures["alone"], *figures["shared"]))
    assert (tmp_path / "found/validation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "wrong", [{"answers": 0}, {"devices": (0,)}, {"devices": (2, 2)}, {"seed": -1}, {"devices": (1, 65)}, {"answers": 10**6}]
)
def test_wrong_arguments_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingError):
        Arguments(**wrong)  # type: ignore[arg-type]
