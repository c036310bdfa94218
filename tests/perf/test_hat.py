"""The bench of HAT: that live answers are right and its figures are of what they say, for a moment."""

from __future__ import annotations

import pytest

from scripts.benchmarks import hat
from scripts.benchmarks.harness import Setting
from traces import bundled


def test_live_devices_answer_as_the_model_does_and_replay_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"_SLOWER": 0.2, "_DEVICES": 2, "_THINK_SECONDS": 0.01, "_LONG_TOKENS": 90}.items():
        monkeypatch.setattr(hat, name, value)
    monkeypatch.setattr(hat, "RULES", ("u-shape", "hat-rule"))
    found = {figure.name: figure for figure in hat.measure(Setting(bundled.PAIR, 1, 1))}
    correct = [figure for name, figure in found.items() if name.startswith("live answers")]
    assert len(correct) == 3
    assert all(figure.met for figure in correct), correct
    weights = found["weights of the device over those of the whole model"].value
    assert 20 < weights < 50
    for name in ("hat-rule", hat.MEDUSA):
        assert found[f"tokens that an upload brings, {name}"].value > 1
        assert f"TBT below that of {hat.PLAIN}: {name}" in found
    assert {name for name in found if "below that of" in name and "hat-rule" in name} == {
        f"{what} below that of {hat.PLAIN}: hat-rule" for what in ("TTFT", "TBT")
    }
