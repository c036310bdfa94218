"""What gRPC itself does with connections: it ends them, it refuses them, and honest devices notice nothing."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from cloud.config import ServerConfig
from cloud.connections import Connections
from cloud.server import running_server
from cloud.tokens import new_token
from runtime.client import CloudClient
from runtime.errors import SettingError
from runtime.model.tokenizer import tokenizer_hash
from runtime.synera.verifier import CloudVerifier
from runtime.wire import TOKEN_KEY, synera_pb2_grpc
from runtime.wire import synera_pb2 as pb
from tests.support.engine import FakeForward, continuation, fake_engine
from tests.support.http2 import Http2
from tests.support.process import ALWAYS, ROOT, device
from tests.support.raw import Refusal, answer, channel_to, poll
from tests.support.verifying import agreed

PROMPT = [1, 2, 3]
NEVER = 3600.0


@contextmanager
def served(model: Path, forward: FakeForward | None = None, **connections: Any) -> Iterator[int]:
    config = ServerConfig(model=model, connections=Connections(**connections), grace_seconds=0)
    with running_server(config, engine=fake_engine(forward or FakeForward())) as port:
        yield port


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ({"most": 0}, "most=0 must be an integer in 1..1000000"),
        ({"streams": 1.5}, "streams=1.5 must be an integer in 1..100000"),
        ({"age_seconds": 0}, "age_seconds=0 must be a number in 0.1..604800"),
        ({"idle_seconds": float("nan")}, "idle_seconds=nan must be a number"),
        ({"ping_seconds": 0.5}, "ping_seconds=0.5 must be a number in 1..3600"),
        ({"handshake_seconds": "5"}, "handshake_seconds='5' must be a number"),
    ],
)
def test_settings_are_checked(setting: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        Connections(**setting)


def test_no_option_is_given_twice_and_durations_are_in_milliseconds() -> None:
    options = Connections(age_seconds=1.5).options(1000)
    assert len({name for name, _ in options}) == len(options)
    assert all(isinstance(value, int) for _, value in options)
    assert dict(options)["grpc.max_connection_age_ms"] == 1500
    assert dict(options)["grpc.max_receive_message_length"] == 1000


def test_there_are_never_more_connections_than_files_may_be_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def most(soft: int) -> int:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
        return dict(Connections(most=5000).options(1000))["grpc.max_allowed_incoming_connections"]

    assert [most(limit) for limit in (10, 1024, 20_000, resource.RLIM_INFINITY)] == [1, 896, 5000, 5000]


def test_the_limit_of_open_files_is_raised() -> None:
    code = (
        "import resource; from cloud.connections import *; hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard)); print(open_files(), raise_open_files() == open_files() == hard)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "64 True\n"


# ---------------------------------------------------------------- a connection's end


def test_a_device_s_answer_survives_connections_that_age_all_the_time(tiny_llm: Path) -> None:
    """Its tokens are those of a quiet world and no check is lost, though its connection is taken away several times."""
    config = ServerConfig(model=tiny_llm, connections=Connections(age_seconds=0.1, age_grace_seconds=5))
    prompt, used = [1, 60, 61, 62, 63], set[str]()
    with running_server(config) as port, CloudClient(f"127.0.0.1:{port}") as client:
        truth = [each.token for each in client.generate(prompt, 40)]
        terms = agreed(client)
        for _ in range(100):
            with CloudVerifier(client, terms) as verifier:
                session = device(verifier, truth)
                session.begin(prompt, ALWAYS)
                done = False
                while not done:
                    done = session.advance(ALWAYS).done
                    used |= connections_to(port)
                session.close()
            assert list(session.answer) == truth
            assert [each.error for each in session.records if each.error is not None] == []
            if len(used) >= 5:
                return
    raise AssertionError(f"connections did not end: {used}")


def connections_to(port: int) -> set[str]:
    """The local ports that are connected to a server of this machine."""
    tables = [Path("/proc/net", name).read_text().splitlines()[1:] for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table]
    return {line[1] for line in lines if line[2].endswith(f":{port:04X}") and line[3] == "01"}


def test_a_stream_is_finished_on_a_connection_that_is_over(tiny_llm: Path) -> None:
    forward, request = FakeForward(), pb.GenerateRequest(prompt=PROMPT, max_new_tokens=90)
    with served(tiny_llm, forward, age_seconds=0.1, age_grace_seconds=20) as port, channel_to(port) as channel:
        stub = synera_pb2_grpc.SyneraStub(channel)
        forward.gate.clear()
        stream = stub.Generate(request, timeout=20)
        assert forward.entered.wait(20)
        poll(lambda: stub.ModelInfo(pb.ModelInfoRequest(), timeout=10) and len(connections_to(port)) >= 2)
        forward.gate.set()
        assert [each.token for each in stream] == continuation(PROMPT, 90)


def test_an_idle_connection_is_closed_and_its_session_goes_on(tiny_llm: Path) -> None:
    with served(tiny_llm, idle_seconds=0.3) as port, channel_to(port) as channel:
        stub = synera_pb2_grpc.SyneraStub(channel)
        session_id = stub.Open(pb.OpenRequest(tokenizer_hash=tokenizer_hash(tiny_llm)), timeout=10).session_id
        stub.Verify(pb.VerifyRequest(session_id=session_id, seq=1, context=[1, 2]), timeout=10)
        poll(lambda: not connections_to(port))
        got = stub.Verify(pb.VerifyRequest(session_id=session_id, seq=2, prefix_length=2, context=[3]), timeout=10)
        assert got.next_token == continuation(PROMPT, 1)[0]


def test_a_peer_that_says_nothing_is_sent_away(tiny_llm: Path) -> None:
    with served(tiny_llm, handshake_seconds=0.3) as port, socket.create_connection(("127.0.0.1", port), timeout=20) as silent:
        poll(lambda: ended(silent))


def test_who_pings_too_often_is_sent_away_and_who_pings_now_and_then_is_not(tiny_llm: Path) -> None:
    with served(tiny_llm, least_ping_seconds=300) as port, Http2(port) as peer:
        for _ in range(20):
            peer.ping()
        assert b"too_many_pings" in peer.goaway()
    with served(tiny_llm, least_ping_seconds=0.1) as port, Http2(port) as peer:
        for _ in range(4):
            assert peer.pong_within(0.3)


def test_a_dead_peer_s_call_ends(tiny_llm: Path) -> None:
    """A peer that asked, and then neither reads nor answers pings."""
    forward = FakeForward()
    with served(tiny_llm, forward, ping_seconds=1, ping_timeout_seconds=0.2) as port, Http2(port, answers_pings=False) as peer:
        forward.gate.clear()
        peer.call("Generate", pb.GenerateRequest(prompt=PROMPT, max_new_tokens=5))
        assert peer.closed()
        forward.gate.set()


# ---------------------------------------------------------------- too many


def test_at_most_so_many_calls_run_on_a_connection(tiny_llm: Path) -> None:
    forward = FakeForward()
    message = pb.GenerateRequest(prompt=PROMPT, max_new_tokens=1)
    with served(tiny_llm, forward, streams=3) as port:
        forward.gate.clear()
        with Http2(port) as peer, channel_to(port) as channel:
            assert peer.settings()[3] == 3  # what honest clients keep to
            for _ in range(4):
                last = peer.call("Generate", message)
            assert peer.refused_stream() == last
            stub = synera_pb2_grpc.SyneraStub(channel)
            assert stub.ModelInfo(pb.ModelInfoRequest(), timeout=10).engine == "fake"  # another connection has its own
            forward.gate.set()


def test_at_the_limit_of_connections_those_who_are_connected_go_on_and_room_comes_again(tiny_llm: Path) -> None:
    with ExitStack() as stack:
        port = stack.enter_context(served(tiny_llm, most=8, handshake_seconds=NEVER / 60, idle_seconds=NEVER))
        honest = stack.enter_context(CloudClient(f"127.0.0.1:{port}"))
        verifier = stack.enter_context(CloudVerifier(honest, agreed(honest)))
        idle = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20)) for _ in range(40)]
        poll(lambda: sum(map(ended, idle)) >= 40 - 8)
        for prefix in ([1], [1, 2]):
            verifier.submit(prefix, continuation(prefix, 3))
            assert verifier.result().accepted == 3  # type: ignore[union-attr]
        with channel_to(port, ("grpc.use_local_subchannel_pool", 1)) as late:
            got = answer(synera_pb2_grpc.SyneraStub(late).ModelInfo, pb.ModelInfoRequest())
            assert isinstance(got, Refusal)
            assert got.code is grpc.StatusCode.UNAVAILABLE
        for each in idle:
            each.close()
        poll(lambda: comes_in(port))


def ended(peer: socket.socket) -> bool:
    """Whether the server closed a connection."""
    peer.setblocking(False)
    try:
        while peer.recv(4096):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def comes_in(port: int) -> bool:
    with channel_to(port, ("grpc.use_local_subchannel_pool", 1)) as channel:
        return not isinstance(answer(synera_pb2_grpc.SyneraStub(channel).ModelInfo, pb.ModelInfoRequest()), Refusal)


# ---------------------------------------------------------------- too large


def test_there_is_room_for_a_token_beside_other_metadata(tiny_llm: Path) -> None:
    with served(tiny_llm) as port, channel_to(port) as channel:
        sent = ((TOKEN_KEY, f"Bearer {new_token()}"), ("traceparent", "0" * 55), ("other", "v" * 1500))
        got = answer(synera_pb2_grpc.SyneraStub(channel).ModelInfo, pb.ModelInfoRequest(), metadata=sent)
        assert got.engine == "fake"


def test_a_peer_may_send_one_request_before_anybody_reads_it_and_no_more(tiny_llm: Path) -> None:
    longest = dict(Connections().options(1_000_000))["grpc.http2.lookahead_bytes"]
    assert longest == 1_000_005
    with served(tiny_llm) as port, Http2(port) as peer:
        assert peer.settings()[4] == 65_535  # SETTINGS_INITIAL_WINDOW_SIZE; the fake's context is short


def test_a_message_that_claims_to_be_too_long_is_refused_before_it_is_there(tiny_llm: Path) -> None:
    """So that nobody fills the memory with the beginnings of messages."""
    with served(tiny_llm) as port, Http2(port) as peer:
        peer.call("Verify", b"x" * 1000, claimed_bytes=2**31)
        assert peer.trailers()
