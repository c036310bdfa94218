"""A short soak of HAT: real faults of a real cloud at random moments, and that what the soak counts would show them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.hat import uploads
from runtime.hat.device import HatConnection
from runtime.hat.patience import Patience
from runtime.model.loading import load_decoder
from scripts.benchmarks import hat_faults
from scripts.benchmarks._faulty import cable
from scripts.benchmarks.faults import KINDS
from scripts.benchmarks.hat_faults import Found, soak
from synera_env.hat.live import load_hat_device
from tests.support.hat import save_adapter

SHORT = ("cut", "stop", "cut", "silence", "kill", "cut")
"""A restart is a kill that says so first."""


@pytest.fixture
def adapter(tmp_path: Path, tiny_deep: Path) -> Path:
    return save_adapter(tmp_path / "adapter", tiny_deep, 2)


@pytest.fixture
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hat_faults, "_LONGEST_FAULT_SECONDS", 0.5)
    brief = Patience(longest_seconds=0.8, silent_seconds=0.3, open_seconds=0.3)
    monkeypatch.setattr(hat_faults, "_AWAY", brief)


@pytest.mark.usefixtures("_brief")
def test_answers_survive_every_kind_of_fault_and_nothing_leaks(adapter: Path, tiny_deep: Path) -> None:
    found = soak(tiny_deep, adapter, SHORT, answers=20, devices=2, max_new_tokens=12)
    assert found.faults == len(SHORT)
    assert set(SHORT) == set(KINDS) - {"restart"}
    assert found.complete == found.answers - found.away >= 20
    assert found.away == found.away_ended == 2
    assert all("device-only completion is impossible without the middle layers" in why for why in found.why)
    assert (found.ended, found.wrong_tokens) == (0, 0)
    assert found.healed > 0
    assert found.sessions_anew > 0
    assert found.resent_bytes > 0
    assert (found.sessions_left, found.blocks_left, found.threads_left, found.sockets_left) == (0, 0, 0, 0)
    assert all(figure.met for figure in found.figures())


def test_a_cloud_that_is_told_something_else_is_seen(adapter: Path, tiny_deep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told zeros in the place of each draft."""
    request = uploads.Uploads.request

    def forgets(self: Any, sent: Any, session_id: str) -> Any:
        message = request(self, sent, session_id)
        if sent.prefix_length and sent.returned:
            message.states = bytes(len(message.states))
        return message

    device = load_hat_device(tiny_deep, adapter, max_new_tokens=12, paced=False)
    config = ServerConfig(model=tiny_deep, split=device.split, grace_seconds=0)
    with running_server(config) as port, cable(port) as wire, CloudClient(wire.target) as client:
        soaking = hat_faults._Soak(device, load_decoder(tiny_deep), Found(), wire)
        connection, found = HatConnection(device, client), soaking._found
        assert soaking._answer(connection, random.Random(0))
        assert (found.answers, found.complete, found.wrong_tokens) == (1, 1, 0)
        monkeypatch.setattr(uploads.Uploads, "request", forgets)
        soaking._answer(connection, random.Random(0))
        assert (found.answers, found.complete, found.ended) == (2, 1, 0)
        assert found.wrong_tokens > 0


def test_the_figures_name_what_was_missed() -> None:
    found = Found(answers=5, complete=3, away=1, tokens=9, wrong_tokens=2, sessions_left=1, blocks_left=4)
    missed = {figure.name: figure.value for figure in found.figures() if not figure.met}
    assert missed == {
        "answers complete, cloud back in time": 75.0,
        "answers complete or ended with the reason": 60.0,
        "answers ended by the deadline, cloud away": 0.0,
        "tokens that are not the whole model's": 2.0,
        "sessions left in the cloud": 1.0,
        "KV blocks left in the cloud": 4.0,
    }
