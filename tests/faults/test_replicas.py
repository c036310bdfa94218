"""Real verifiers that are killed, stopped and started again in the middle of answers: no answer notices but by its time."""

from __future__ import annotations

import logging
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient, Deadlines
from runtime.device import Alone, Connection, Device, LiveSession
from runtime.dialling import dialled
from runtime.errors import CloudUnavailableError, TokenizerMismatchError, UnauthenticatedError
from tests.conftest import save_tiny_llama
from tests.support.engine import greedy
from tests.support.hostile import Answer, fails, hangs, hostile, info_of
from tests.support.process import ALWAYS, Served, served
from tests.support.recorded import foreign_copy
from tests.support.surviving import PROMPT, finish


@pytest.fixture(autouse=True)
def no_thread_stays_and_no_trace_is_printed(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    yield
    assert "Traceback" not in "".join(capfd.readouterr())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("verifier")]


@contextmanager
def connected(device: Device, targets: Sequence[str], alone: Alone | None = None) -> Iterator[Connection]:
    with dialled(",".join(targets)) as clients, Connection(device, clients, alone=alone, key="device") as connection:
        yield connection


def in_order(connection: Connection, processes: Sequence[Served]) -> list[Served]:
    by_target = {process.target: process for process in processes}
    return [by_target[replica.client.target] for replica in connection._replicas.order]


def errors(session: LiveSession) -> list[str | None]:
    return [record.error for record in session.records if record.error is not None]


def kill(process: Served) -> None:
    process.process.send_signal(signal.SIGKILL)
    process.process.wait()


def test_a_replica_killed_in_the_middle_of_answers_costs_no_token(device: Device, tiny_llm: Path) -> None:
    """Four answers at once, on the one that dies; they move to the other, and those after them begin there."""
    truth = greedy(tiny_llm, PROMPT, device.max_new_tokens)
    with ExitStack() as stack:
        processes = [stack.enter_context(served(tiny_llm)) for _ in range(2)]
        connection = stack.enter_context(connected(device, [process.target for process in processes]))
        answering = stack.enter_context(ThreadPoolExecutor(4))
        sessions = [stack.enter_context(connection.open()) for _ in range(4)]
        for session in sessions:
            session.begin(PROMPT, ALWAYS)
            session.advance(ALWAYS)
        kill(in_order(connection, processes)[0])
        list(answering.map(rest, sessions))
        sessions.append(stack.enter_context(connection.open()))
        finish(sessions[-1])
        assert [list(session.answer) for session in sessions] == [truth] * 5
        assert [errors(session) for session in sessions] == [[]] * 5


def rest(session: LiveSession) -> None:
    while not session.advance(ALWAYS).done:
        pass


def test_a_replica_that_is_stopped_costs_its_deadline_once_and_no_token(device: Device, tiny_llm: Path) -> None:
    truth = greedy(tiny_llm, PROMPT, device.max_new_tokens)
    with served(tiny_llm) as one, served(tiny_llm) as other, connected(device, [one.target, other.target]) as connection:
        first, _ = in_order(connection, [one, other])
        with connection.open() as session:
            session.begin(PROMPT, ALWAYS)
            session.advance(ALWAYS)
            first.process.send_signal(signal.SIGSTOP)
            rest(session)
            waits = [record.cost.wait_seconds for record in session.records]
        assert list(session.answer) == truth
        assert errors(session) == []
        assert sum(wait >= 0.5 for wait in waits) == 1
        with connection.open() as session:
            finish(session)
        assert (list(session.answer), errors(session)) == (truth, [])
        first.process.send_signal(signal.SIGCONT)


def test_answers_return_to_a_replica_that_is_started_again(device: Device, tiny_llm: Path) -> None:
    truth = greedy(tiny_llm, PROMPT, device.max_new_tokens)
    with ExitStack() as stack:
        ports = [free_port(), free_port()]
        connection, servers = None, {}
        for port in ports:
            servers[f"127.0.0.1:{port}"] = ExitStack()
            servers[f"127.0.0.1:{port}"].enter_context(running_server(ServerConfig(tiny_llm, port=port, grace_seconds=0)))
            stack.push(servers[f"127.0.0.1:{port}"].__exit__)
        connection = stack.enter_context(connected(device, list(servers)))
        first = connection._replicas.order[0]
        session = stack.enter_context(connection.open())
        session.begin(PROMPT, ALWAYS)
        session.advance(ALWAYS)
        servers[first.client.target].close()
        rest(session)
        assert (list(session.answer), errors(session)) == (truth, [])
        assert first.state.breaker.refusal(0.0) is not None
        stack.enter_context(
            running_server(ServerConfig(tiny_llm, port=int(first.client.target.split(":")[1]), grace_seconds=0))
        )
        for _ in range(400):
            first.state.breaker._until = 0.0  # time has passed
            with connection.open() as following:
                finish(following)
            assert (list(following.answer), errors(following)) == (truth, [])
            if following._verifier._remote._at is first:
                break
        else:
            raise AssertionError("it never returned")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# ---------------------------------------------------------------- what they serve


@pytest.mark.parametrize("what", ["model", "tokenizer"])
def test_a_replica_that_serves_another_model_is_left_out_with_one_warning(
    what: str, device: Device, tiny_llm: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "runtime")
    other = foreign_copy(tiny_llm, tmp_path / "o") if what == "tokenizer" else save_tiny_llama(tmp_path / "o", layers=3, seed=9)
    truth = greedy(tiny_llm, PROMPT, device.max_new_tokens)
    with (
        running_server(ServerConfig(tiny_llm)) as port,
        running_server(ServerConfig(other)) as wrong,
        connected(device, [f"127.0.0.1:{port}", f"127.0.0.1:{wrong}"]) as connection,
    ):
        for _ in range(2):
            with connection.open() as session:
                finish(session)
            assert (list(session.answer), errors(session)) == (truth, [])
    assert len(caplog.records) == 1
    assert f"the replica 127.0.0.1:{wrong} is left out: " in caplog.text


REFUSES = {"ModelInfo": fails(grpc.StatusCode.UNAUTHENTICATED, "no such token", "UnauthenticatedError")}


def test_one_that_fits_is_enough_and_a_silent_one_is_not_waited_for_long(device: Device) -> None:
    info, late = info_of(device), Deadlines(info_seconds=600)
    with ExitStack() as stack:
        answers: list[dict[str, Answer]] = [{"ModelInfo": hangs}, REFUSES, {}]
        servers = [stack.enter_context(hostile(info, each)) for each in answers]
        clients = stack.enter_context(dialled(",".join(server.target for server in servers), deadlines=late))
        connection = stack.enter_context(Connection(device, clients))
        with connection.open() as session:
            finish(session)
        assert errors(session) == []
        assert len(servers[2].calls("Verify")) == len(session.records)


def test_where_none_fits_the_mistake_is_told_before_the_silence(device: Device, tiny_llm: Path, tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    with hostile(info_of(device), REFUSES) as server:
        for alone in (None, Alone()):
            with (
                pytest.raises(UnauthenticatedError, match=rf"{server.target} does not take this device"),
                connected(device, [nobody, server.target], alone),
            ):
                pass
    with (
        running_server(ServerConfig(foreign_copy(tiny_llm, tmp_path / "foreign"))) as port,
        pytest.raises(TokenizerMismatchError),
        connected(device, [nobody, f"127.0.0.1:{port}"]),
    ):
        pass
    with (
        pytest.raises(CloudUnavailableError, match=f"no verifier answers at {nobody}"),
        connected(device, [nobody, f"127.0.0.1:{free_port()}"]),
    ):
        pass


def test_a_device_that_begins_alone_meets_a_replica_later(device: Device, alone: tuple[int, ...], tiny_llm: Path) -> None:
    truth = greedy(tiny_llm, PROMPT, device.max_new_tokens)
    ports = [free_port(), free_port()]
    with connected(device, [f"127.0.0.1:{port}" for port in ports], Alone()) as connection:
        assert connection.llm_fingerprint is None
        with connection.open() as session:
            finish(session)
        assert session.answer == alone
        assert all("no verifier answers at 127.0.0.1" in str(error) for error in errors(session))
        with running_server(ServerConfig(tiny_llm, port=ports[1], grace_seconds=0)):
            for _ in range(400):
                for replica in connection._replicas.order:
                    replica.state.breaker._until = 0.0  # time has passed
                with connection.open() as session:
                    finish(session)
                if not errors(session):
                    break
            assert list(session.answer) == truth
            assert connection.llm_fingerprint is not None
            connection.close()


def test_a_device_that_a_restarted_verifier_no_longer_knows_goes_on_alone_and_asks_once(
    device: Device, alone: tuple[int, ...]
) -> None:
    with (
        hostile(info_of(device), {}) as server,
        CloudClient(server.target) as client,
        Connection(device, client) as connection,
    ):
        server.answers.update({each: REFUSES["ModelInfo"] for each in ("Open", "Verify", "Close", "ModelInfo")})
        for _ in range(3):
            with connection.open() as session:
                finish(session)
            assert session.answer == alone
            assert all("does not take this device" in str(error) for error in errors(session))
            assert len(errors(session)) == len(session.records)
        assert len(server.calls("Open")) == 1
