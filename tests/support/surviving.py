"""A small device, what holds for every answer that a cloud fails, and a watch over what may not happen besides."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime.client import CloudClient, Deadlines
from runtime.device import Connection, Device, LiveSession
from runtime.synera.chunk import ChunkRecord
from runtime.synera.knobs import Knobs
from tests.support.hostile import hostile, info_of
from tests.support.process import ALWAYS
from tests.support.recorded import PHONE

PROMPT = (1, 60, 61, 62, 63)
PATIENT = Deadlines(info_seconds=20, open_seconds=20, verify_seconds=20, close_seconds=20, generate_seconds=20)
BRIEF = Deadlines(info_seconds=0.4, open_seconds=0.4, verify_seconds=0.4, close_seconds=0.2, generate_seconds=0.4)


@pytest.fixture(scope="module")
def device(tiny_slm: Path) -> Device:
    return Device.load(tiny_slm, PHONE, max_new_tokens=12)


@pytest.fixture(scope="module")
def alone(device: Device) -> tuple[int, ...]:
    """The SLM's own answer."""
    with hostile(info_of(device), {}) as server, met(device, server.target) as connection, connection.open() as session:
        finish(session, Knobs(draft_length=4))
        assert server.calls("Verify") == []
    assert len(session.answer) == device.max_new_tokens
    return session.answer


@contextmanager
def met(device: Device, target: str, deadlines: Deadlines = PATIENT) -> Iterator[Connection]:
    with CloudClient(target, deadlines=deadlines) as client, Connection(device, client) as connection:
        yield connection


def finish(session: LiveSession, knobs: Knobs = ALWAYS) -> None:
    point: Any = session.begin(PROMPT, knobs)
    while point is not None:
        point = session.advance(knobs).point


@pytest.fixture
def nothing_else_happens(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No trace is printed, no thread stays."""
    before = set(threading.enumerate())
    yield
    assert "Traceback" not in "".join(capfd.readouterr())
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), thread


def is_marked(record: ChunkRecord, why: str) -> bool:
    """Hold a lost chunk to what it must be; True when it says why."""
    error = record.error
    assert error is not None
    assert error.isprintable()
    assert len(error) <= 400
    assert record.offloaded
    assert record.verdict is None
    assert record.committed == record.draft.ids
    assert (record.judged, record.accepted, record.cost.cloud_seconds, record.cost.cloud_tokens) == (0, 0, 0.0, 0)
    return re.search(why, error) is not None
