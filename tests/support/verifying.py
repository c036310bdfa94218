"""A served fake LLM whose leases run on a clock of the test's, and what a verifier says of a check."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient, Deadlines
from runtime.clock import RealClock
from runtime.courier import Inbox
from runtime.errors import CloudBusyError, CloudError
from runtime.model.tokenizer import tokenizer_hash
from runtime.synera.chunk import Lost, Verdict
from runtime.synera.remote import Terms
from runtime.synera.verifier import CloudVerifier
from tests.support.engine import VOCAB, FakeForward, fake_engine

PROMPT = (1, 2, 3)


def verdict_of(verifier: CloudVerifier) -> Verdict:
    """The verdict that the check in flight must get."""
    found = verifier.result()
    assert isinstance(found, Verdict), found
    return found


def lost(verifier: CloudVerifier) -> Lost:
    """How the check in flight, which must be lost, was lost."""
    found = verifier.result()
    assert isinstance(found, Lost), found
    return found


def agreed(client: CloudClient) -> Terms:
    """What a device that has the cloud's tokenizer and vocabulary agrees on with it."""
    info = client.model_info()
    return Terms(info.tokenizer_hash, info.fingerprint, info.vocab)


NOBODY = Terms("hash", "0" * 16, VOCAB)
"""Agreed with a cloud that is not there."""


class ManualClock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def wait(self, inbox: Inbox, seconds: float, calls: int) -> object:
        """Let time pass only while no call is under way: calls take none."""
        if calls:
            return inbox.get(timeout=30)
        self.seconds += seconds
        return None

    def charge(self, seconds: float, since: float) -> None:
        raise AssertionError("a verifier charges nothing")


class SkippingClock(RealClock):
    """Real time, of which a test may skip some."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def now(self) -> float:
        return super().now() + self.skipped


class World:
    """A served fake LLM whose leases run on `clock`, and a client."""

    def __init__(self, folder: Path, client: CloudClient, forward: FakeForward, clock: ManualClock) -> None:
        self.tokenizer_hash, self.client, self.forward, self.clock = tokenizer_hash(folder), client, forward, clock
        self.terms = agreed(client)


@pytest.fixture
def world(tiny_llm: Path) -> Iterator[World]:
    forward, clock = FakeForward(), ManualClock()
    config = ServerConfig(model=tiny_llm, lease_seconds=60, max_sessions=2, grace_seconds=0)
    with running_server(config, engine=fake_engine(forward), now=clock.now) as port:
        deadlines = Deadlines(verify_seconds=20)
        with CloudClient(f"127.0.0.1:{port}", deadlines=deadlines) as client:
            try:
                yield World(tiny_llm, client, forward, clock)
            finally:
                forward.gate.set()


@pytest.fixture
def absent() -> str:
    """A target where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


def try_all(world: World) -> Iterator[CloudError]:
    """Open every session that the cloud has, then close them; yield an error when one was still in use."""
    opened = []
    for _ in range(2):
        try:
            opened.append(world.client.open(world.tokenizer_hash).session_id)
        except CloudBusyError as busy:
            yield busy
    for session_id in opened:
        world.client.close_session(session_id)
