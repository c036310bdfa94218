"""A short soak: real faults at random moments, and that what the soak counts would show them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.device import Connection
from runtime.model.loading import load_decoder
from runtime.synera import remote
from scripts.benchmarks import faults
from scripts.benchmarks.faults import KINDS, Found, soak
from synera_env.synera.live import load_device

SHORT = ("stop", "cut", "silence", "cut", "kill", "cut", "stop", "cut", "silence", "cut", "restart", "cut")


@pytest.fixture
def pair(tmp_path: Path, tiny_slm: Path, tiny_llm: Path) -> Path:
    (tmp_path / "slm").symlink_to(tiny_slm)
    (tmp_path / "llm").symlink_to(tiny_llm)
    return tmp_path


def test_answers_survive_every_kind_of_fault_and_nothing_leaks(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_LONGEST_FAULT_SECONDS", 1.0)
    assert set(SHORT) == set(KINDS)
    found = soak(pair, SHORT, max_new_tokens=16)
    assert (found.faults, found.recovered) == (12, 12)
    assert found.complete == found.answers >= 24
    assert found.wrong_tokens == 0
    assert found.undisturbed == found.equal >= 12
    assert found.lost_checks > 0
    assert (found.sessions_left, found.threads_left, found.sockets_left) == (0, 0, 0)


@pytest.fixture
def soaking(pair: Path) -> Iterator[Any]:
    """A soak without faults, over a verifier in this process."""
    config = ServerConfig(model=pair / "llm", max_sessions=faults.MAX_SESSIONS, grace_seconds=0)
    with (
        running_server(config) as port,
        CloudClient(f"127.0.0.1:{port}") as client,
        Connection(load_device(pair / "slm", paced=False, max_new_tokens=16), client) as connection,
    ):
        yield faults._Soak(connection, load_decoder(pair / "llm"), Found(), random.Random(0))


def test_a_cloud_that_lost_a_token_is_seen(soaking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its session holds one token less than it should: what it says fits another history."""
    soaking.answer("none")
    assert (soaking._found.wrong_tokens, soaking._found.undisturbed, soaking._found.equal) == (0, 1, 1)
    send = remote.RemoteSession._send

    def forgets(self: Any, asked: remote.Submitted, deadline: float) -> Any:
        return send(self, replace(asked, history=asked.history[:-1]), deadline)

    monkeypatch.setattr(remote.RemoteSession, "_send", forgets)
    soaking.answer("none")
    assert soaking._found.wrong_tokens > 0
    assert (soaking._found.undisturbed, soaking._found.equal) == (2, 1)


def test_sessions_that_are_not_released_are_counted(soaking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    port, device = int(soaking._connection._replicas.order[0].client.target.split(":")[1]), soaking._connection.device
    soaking.answer("none")
    soaking._connection.close()
    assert faults._held(port, device) == 0
    with CloudClient(f"127.0.0.1:{port}") as client:
        client.open(device.tokenizer_hash)
    assert faults._held(port, device) == 1


def test_the_figures_name_what_was_missed() -> None:
    found = Found(
        faults=2, answers=4, complete=3, tokens=9, wrong_tokens=1, longest_wait={"stop": 30.0}, most_stalls={"stop": 7}
    )
    missed = {figure.name: figure.value for figure in found.figures() if not figure.met}
    assert missed == {
        "answers complete": 75.0,
        "tokens lost, doubled or wrong": 1.0,
        "undisturbed answers that are the LLM's own": 0.0,
        "faults recovered from": 0.0,
        "longest wait for a check, stop": 30.0,
        "most lost checks that were waited for, stop": 7.0,
    }
