"""A verifier as a process: what its signals do, how it ends, and what its exit code and last line say."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runtime.model.tokenizer import tokenizer_hash
from runtime.wire import synera_pb2 as pb
from runtime.wire import synera_pb2_grpc
from tests.support.process import ROOT, Served, served
from tests.support.raw import Honest, channel_to, poll, refused

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def ended(process: Served) -> tuple[int, list[dict[str, object]]]:
    """The exit code and the lines of the log, once it has ended by itself."""
    _, log = process.process.communicate(timeout=60)
    return process.process.returncode, [json.loads(line) for line in log.splitlines()]


def health(channel: grpc.Channel) -> int:
    answer: int = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30).status
    return answer


def test_asked_to_stop_it_drains_then_stops_with_0(tiny_llm: Path) -> None:
    """Open sessions go on, nobody else is admitted, and it ends as soon as the last has."""
    with (
        served(tiny_llm, "--drain-seconds", 600, "--log-format", "json") as process,
        channel_to(process.port) as channel,
    ):
        stub = synera_pb2_grpc.SyneraStub(channel)
        device = Honest(stub, tokenizer_hash(tiny_llm), [1, 2, 3])
        device.step()
        process.process.send_signal(signal.SIGTERM)
        poll(lambda: health(channel) == NOT_SERVING)
        for call, request in (
            (stub.Open, pb.OpenRequest(tokenizer_hash=tokenizer_hash(tiny_llm))),
            (stub.Generate, pb.GenerateRequest(prompt=[1], max_new_tokens=3)),
        ):
            told = refused(call, request)
            assert (told.code, told.kind) == (grpc.StatusCode.UNAVAILABLE, "CloudUnavailableError")
            assert told.details.startswith("the verifier is draining, to stop then; open a session at another")
        device.step()
        closed = stub.Close(pb.CloseRequest(session_id=device.session_id), timeout=30)
        assert closed.compute_ms > 0
        assert closed.processed_tokens == 4  # the prompt, then one more
        code, log = ended(process)
    assert code == 0
    assert [line["event"] for line in log] == ["started", "draining", "session ended", "stopped"]
    assert log[1].items() >= {"sessions": 1, "seconds": 600.0}.items()
    assert log[-1].items() >= {"why": "asked to", "sessions_ended": 0}.items()


def test_a_drain_ends_when_its_time_is_over(tiny_llm: Path) -> None:
    with (
        served(tiny_llm, "--drain-seconds", 0.2, "--log-format", "json") as process,
        channel_to(process.port) as channel,
    ):
        Honest(synera_pb2_grpc.SyneraStub(channel), tokenizer_hash(tiny_llm), [1])
        process.process.send_signal(signal.SIGINT)
        code, log = ended(process)
    assert code == 0
    assert log[-1].items() >= {"event": "stopped", "sessions_ended": 1}.items()
    assert log[-2].items() >= {"event": "session ended", "how": "stopped", "answers": 0}.items()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_at_once(tiny_llm: Path, second: signal.Signals) -> None:
    with (
        served(tiny_llm, "--drain-seconds", 600, "--log-format", "json") as process,
        channel_to(process.port) as channel,
    ):
        Honest(synera_pb2_grpc.SyneraStub(channel), tokenizer_hash(tiny_llm), [1])
        process.process.send_signal(signal.SIGTERM)
        poll(lambda: health(channel) == NOT_SERVING)
        process.process.send_signal(second)
        code, log = ended(process)
    assert code == 128 + second
    assert log[-1].items() >= {"event": "stopped at once", "signal": second.name}.items()


DIES = """if True:
    import sys
    from cloud import log
    from cloud.config import ServerConfig
    from cloud.process import serve
    from cloud import server
    from tests.support.engine import FakeForward, fake_engine

    forward = FakeForward()
    forward.failures.append(SystemExit("planted"))
    server.load_engine = lambda config: fake_engine(forward)
    log.configure("info", "json")
    config = ServerConfig(model=__import__("pathlib").Path(sys.argv[1]), drain_seconds=600)
    sys.exit(serve(config, lambda port, info: print(port, flush=True)))
"""
"""A verifier whose engine dies of the first check."""


def test_an_engine_that_dies_ends_the_process_with_1(tiny_llm: Path) -> None:
    line = [sys.executable, "-c", DIES, str(tiny_llm)]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            with channel_to(port) as channel:
                stub = synera_pb2_grpc.SyneraStub(channel)
                watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
                assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
                session_id = stub.Open(pb.OpenRequest(tokenizer_hash=tokenizer_hash(tiny_llm)), timeout=30).session_id
                told = refused(stub.Verify, pb.VerifyRequest(session_id=session_id, seq=1, context=[1]))
                assert told.code == grpc.StatusCode.UNAVAILABLE
                assert next(watch).status == NOT_SERVING
                watch.cancel()
            _, log = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 1
    events = [json.loads(each) for each in log.splitlines()]
    assert "engine died" in [each["event"] for each in events]
    assert events[-1].items() >= {"event": "stopped", "why": "the engine died"}.items()
