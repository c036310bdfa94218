"""A device that begins without its cloud: it answers alone, and what it meets later is believed only where it fits."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from grpc import StatusCode

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.device import Alone, Connection, Device, LiveSession
from runtime.errors import CloudRejectedError, CloudUnavailableError, TokenizerMismatchError
from tests.support.engine import greedy
from tests.support.gate import gate
from tests.support.hostile import NEXT, but, fails, hostile, info_of
from tests.support.process import ALWAYS
from tests.support.recorded import foreign_copy
from tests.support.surviving import PROMPT, finish


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("verifier")]


@pytest.fixture
def port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def begun_alone(device: Device, port: int, llm: str | None = None) -> Iterator[Connection]:
    with (
        CloudClient(f"127.0.0.1:{port}") as client,
        Connection(device, client, alone=Alone(llm)) as connection,
    ):
        assert connection.llm_fingerprint is None
        yield connection


def answer(connection: Connection) -> LiveSession:
    with connection.open() as session:
        finish(session)
    return session


def meet(connection: Connection) -> LiveSession:
    """Let the pause pass, and the cloud be looked for in the background of an answer; return the next one."""
    connection._replicas.order[0].state.breaker._until = 0.0
    with connection.open() as looking:
        looking.begin(PROMPT, ALWAYS)
        looking._verifier._worker.submit(lambda: None).result()
    return answer(connection)


def errors(session: LiveSession) -> list[str]:
    return [str(record.error) for record in session.records if record.error is not None]


def test_without_a_cloud_answers_are_the_slm_s_own(device: Device, alone: tuple[int, ...], port: int) -> None:
    with begun_alone(device, port) as connection:
        for session in (answer(connection), answer(connection)):
            assert session.answer == alone
            assert len(errors(session)) == len(session.records)
            assert all("no verifier answers" in error for error in errors(session))


def test_it_must_be_allowed_and_only_silence_is(device: Device, port: int) -> None:
    with CloudClient(f"127.0.0.1:{port}") as client, pytest.raises(CloudUnavailableError):
        Connection(device, client)
    answers = {"ModelInfo": but(tokenizer_hash="feed")}
    with (
        hostile(info_of(device), answers) as server,
        CloudClient(server.target) as client,
        pytest.raises(TokenizerMismatchError),
    ):
        Connection(device, client, alone=Alone())
    with (
        hostile(info_of(device), {"ModelInfo": fails(StatusCode.UNIMPLEMENTED)}) as server,
        CloudClient(server.target) as client,
        pytest.raises(CloudRejectedError, match="is it a verifier"),
    ):
        Connection(device, client, alone=Alone())


def test_a_cloud_that_comes_later_is_met_and_checks_from_then_on(device: Device, tiny_llm: Path, port: int) -> None:
    truth = greedy(tiny_llm, PROMPT, device.max_new_tokens)
    with begun_alone(device, port) as connection:
        assert errors(answer(connection))
        with running_server(ServerConfig(model=tiny_llm, port=port, grace_seconds=0)):
            session = meet(connection)
            assert errors(session) == []
            assert list(session.answer) == truth
            assert connection.llm_fingerprint is not None
            assert errors(answer(connection)) == []
            connection.close()


@pytest.mark.parametrize("what", ["tokenizer", "model", "drafts"])
def test_a_cloud_that_comes_later_and_does_not_fit_is_lost(
    what: str, device: Device, alone: tuple[int, ...], tiny_llm: Path, tmp_path: Path, port: int
) -> None:
    model = foreign_copy(tiny_llm, tmp_path / "foreign") if what == "tokenizer" else tiny_llm
    why = {"tokenizer": "shares the SLM's tokenizer", "model": "is expected", "drafts": "drafts of at most 7 tokens"}[what]
    config = ServerConfig(model=model, port=port, grace_seconds=0, max_draft_tokens=7 if what == "drafts" else 16)
    with begun_alone(device, port, "0" * 16 if what == "model" else None) as connection:
        with running_server(config):
            session = meet(connection)
            connection.close()
        assert session.answer == alone
        assert len(errors(session)) == len(session.records)
        assert all(why in error for error in errors(session))
        assert connection.llm_fingerprint is None


def test_an_answer_that_would_end_elsewhere_goes_on_alone_and_the_next_is_checked(
    device: Device, alone: tuple[int, ...]
) -> None:
    """The LLM's end token is not the SLM's: an answer that began without knowing it would run past it."""
    info = info_of(device)
    info.eos_ids.append(NEXT)
    with (
        hostile(info, {}) as server,
        gate(server.target, instead=lambda connection: None) as port,
        begun_alone(device, int(port.target.split(":")[1])) as connection,
    ):
        before = connection.open()
        before.begin(PROMPT, ALWAYS)
        port.instead = None  # it is there now
        connection._replicas.order[0].state.breaker._until = 0.0
        before.advance(ALWAYS)
        before._verifier._worker.submit(lambda: None).result()
        while not before.advance(ALWAYS).done:
            pass
        assert before.answer == alone
        assert "ends answers elsewhere" in errors(before)[-1]
        finish(before)  # another answer of the same session
        assert before.answer == alone
        assert server.calls("Open") == []
        before.shutdown()
        session = answer(connection)
        assert errors(session) == []
        assert session.answer[-1] == NEXT
        assert len(session.answer) < len(alone)
        assert connection.limits.eos_ids >= {NEXT}
