"""The bench of a shared verifier over time: that it counts what it says, with real processes and real kills, for a moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.client import CloudClient
from runtime.wire import synera_pb2 as pb
from scripts._attacker import Force
from scripts.benchmarks import cloud_soak
from scripts.benchmarks.harness import Figure, Setting


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_slm: Path, tiny_llm: Path) -> Setting:
    sizes = {"_ROUND_SECONDS": 1.0, "_FORCE": Force(1, 5, 1.0), "_LEASE_SECONDS": 1.5, "_THOUSAND": 5, "_DEVICES": 2}
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
    assert (
        found.pop("answers given up in the soak") >= 0
    )  # how many that are on a machine held up by others is a matter of time
    assert len(found) == 3
    assert not any(found.values()), found
    monkeypatch.setattr(cloud_soak, "_LEASE_SECONDS", 8.0)
    with cloud_soak._observed(short) as (target, look):
        before = look()
        assert (before.sessions, before.blocks) == (0, 0)
        with CloudClient(target.addresses[0]) as client:
            session = client.open(cloud_soak.served(target).tokenizer_hash).session_id
            client.verify(pb.VerifyRequest(session_id=session, seq=1, context=[5] * 20))
            held = look()
        assert (held.sessions, held.blocks) == (1, 2)
        assert min(held.threads, before.threads) > 2  # gRPC's own come and go
        assert held.bytes >= before.bytes > 50e6
        after = cloud_soak._rested(look)  # its lease is short
        assert (after.sessions, after.blocks) == (0, 0)


def test_answers_survive_a_replica_that_is_killed(short: Setting) -> None:
    assert values(list(cloud_soak._lost_replica(short))) == {
        "answers complete, a replica killed under load": 100.0,
        "answers without a lost check that are the LLM's own, a replica killed under load": 100.0,
    }
