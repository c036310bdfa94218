"""The bench of a shared verifier over time: that it counts what it says, with real processes and real kills, for a moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts._attacker import Force
from scripts.benchmarks import cloud_soak
from scripts.benchmarks.harness import Figure, Setting


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_slm: Path, tiny_llm: Path) -> Setting:
    sizes = {"_ROUND_SECONDS": 1.0, "_FORCE": Force(1, 5, 1.0), "_LEASE_SECONDS": 0.5, "_THOUSAND": 5, "_DEVICES": 2}
    for name, value in (sizes | {"_KILL_SECONDS": 6.0, "_ANSWERING": 2, "_ANSWERS": 2}).items():
        monkeypatch.setattr(cloud_soak, name, value)
    for name, folder in (("slm", tiny_slm), ("llm", tiny_llm)):
        (tmp_path / name).symlink_to(folder)
    return Setting(tmp_path, 1, 1)


def values(figures: list[Figure]) -> dict[str, float]:
    return {each.name: each.value for each in figures}


def test_a_soak_leaves_nothing_and_sees_what_is_left(short: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    found = values(list(cloud_soak._soak(short)))
    assert found.pop("resident memory after the soak over that once warm") > 0.5
    assert found.pop("threads more after the soak than once warm") >= 0
    assert len(found) == 4
    assert not any(found.values()), found
    with cloud_soak._observed(short) as (target, look):
        client = cloud_soak.served(target)
        assert client.fingerprint
        held = look()
        assert (held.sessions, held.blocks) == (0, 0)
        assert held.threads > 2
        assert held.bytes > 50e6


def test_answers_survive_a_replica_that_is_killed(short: Setting) -> None:
    assert values(list(cloud_soak._lost_replica(short))) == {
        "answers complete, a replica killed under load": 100.0,
        "answers without a lost check that are the LLM's own, a replica killed under load": 100.0,
    }
