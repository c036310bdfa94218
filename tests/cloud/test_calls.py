"""Calls as a real server counts and numbers them."""

from __future__ import annotations

import asyncio
import logging
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest
from prometheus_client import generate_latest

from cloud.calls import Calls
from cloud.config import ServerConfig
from cloud.engine.base import Check, Checked, EngineUsage, Iteration
from cloud.log import JsonFormatter
from cloud.metrics import Metrics
from cloud.server import running_server
from cloud.service import SERVICE
from runtime.model.tokenizer import tokenizer_hash
from runtime.wire import ERROR_KIND_KEY, synera_pb2_grpc
from runtime.wire import synera_pb2 as pb
from tests.support.raw import Honest, channel_to, poll, refused
from tests.support.scripted import Sample, ScriptedEngine, fetch, of, samples


class World:
    def __init__(self, engine: ScriptedEngine, channel: grpc.Channel, metrics_port: int, folder: Path) -> None:
        self.engine, self.channel, self.metrics_port = engine, channel, metrics_port
        self.stub, self.tokenizer_hash = synera_pb2_grpc.SyneraStub(channel), tokenizer_hash(folder)

    def read(self) -> dict[Sample, float]:
        status, text = fetch(self.metrics_port, "/metrics")
        assert status == 200
        return samples(text)

    def ended(self, method: str, code: str) -> float:
        return self.read().get(of("synera_requests_total", method=method, code=code), 0.0)


@pytest.fixture
def world(tiny_llm: Path, caplog: pytest.LogCaptureFixture) -> Iterator[World]:
    """A scripted engine behind a real server, with metrics."""
    caplog.set_level(logging.DEBUG)
    engine, config = ScriptedEngine(), ServerConfig(model=tiny_llm, metrics_port=0, grace_seconds=0)
    with running_server(config, engine=engine) as port, channel_to(port) as channel:
        [started] = [each for each in caplog.records if each.getMessage() == "started"]
        place = urllib.parse.urlsplit(f"//{started.fields['metrics']}")  # type: ignore[attr-defined]
        assert place.port is not None
        yield World(engine, channel, place.port, tiny_llm)


def test_a_server_tells_what_it_did(world: World) -> None:
    world.engine.usage = EngineUsage(0, 20, 5, 5, 1)
    device = Honest(world.stub, world.tokenizer_hash, [1, 2])
    device.step()
    list(world.stub.Generate(pb.GenerateRequest(prompt=[1], max_new_tokens=3), timeout=30))
    world.engine.iterate(Iteration(0.01, 1, 1, 1, 0, 0))
    found = world.read()
    for method in ("Open", "Verify", "Generate"):
        assert found[of("synera_requests_total", method=method, code="OK")] == 1
        assert found[of("synera_requests_in_flight", method=method)] == 0
        assert found[of("synera_request_seconds_count", method=method)] == 1
    assert found[of("synera_sessions")] == found[of("synera_serving")] == 1
    assert found[of("synera_generated_tokens_total")] == 3
    assert found[of("synera_kv_blocks", state="free")] == 10
    assert found[of("synera_iteration_seconds_count")] == 1
    device.close()
    assert world.read()[of("synera_sessions")] == 0
    assert fetch(world.metrics_port, "/healthz") == (200, "serving\n")


def test_refusals_are_told_by_status_and_reason(world: World) -> None:
    async def bug(session_id: str, check: Check) -> Checked:
        raise ZeroDivisionError("planted")

    refused(world.stub.Verify, pb.VerifyRequest(session_id="x", seq=1))
    refused(world.stub.Verify, pb.VerifyRequest(session_id="0" * 32, seq=1, context=[1]))
    refused(world.stub.Open, pb.OpenRequest(tokenizer_hash="other"))
    refused(world.stub.Generate, pb.GenerateRequest(prompt=[], max_new_tokens=1))
    world.engine.check = bug  # type: ignore[method-assign]
    device = Honest(world.stub, world.tokenizer_hash, [1])
    refused(world.stub.Verify, pb.VerifyRequest(session_id=device.session_id, seq=1, context=[1]))
    poll(lambda: world.ended("Verify", "INTERNAL") == 1)  # a refusal is counted when it has been sent
    found = world.read()
    for method, code in (
        ("Verify", "INVALID_ARGUMENT"),
        ("Verify", "NOT_FOUND"),
        ("Verify", "INTERNAL"),
        ("Open", "FAILED_PRECONDITION"),
        ("Generate", "INVALID_ARGUMENT"),
    ):
        assert found[of("synera_requests_total", method=method, code=code)] == 1
    reasons = {dict(labels)["reason"]: value for (name, labels), value in found.items() if name == "synera_rejections_total"}
    assert {reason: count for reason, count in reasons.items() if count} == {
        "CloudRejectedError": 2,
        "SessionLostError": 1,
        "TokenizerMismatchError": 1,
        "bug": 1,
    }


def test_a_call_that_its_peer_leaves_is_cancelled_and_no_longer_in_flight(world: World) -> None:
    stream = world.stub.Generate(pb.GenerateRequest(prompt=[1], max_new_tokens=99), timeout=30)
    next(stream)
    stream.cancel()
    poll(lambda: world.read()[of("synera_requests_in_flight", method="Generate")] == 0)
    assert world.ended("Generate", "CANCELLED") + world.ended("Generate", "OK") == 1  # it may have been written whole


def test_a_peer_makes_no_series(world: World) -> None:
    def series() -> set[Sample]:
        return set(world.read())

    before = series()
    for name in (f"/{SERVICE}/Made.Up", "/made.up/Verify", f"/{SERVICE}/", "/x"):
        call = world.channel.unary_unary(name, request_serializer=bytes, response_deserializer=bytes)
        assert refused(call, b"").code == grpc.StatusCode.UNIMPLEMENTED
    assert series() == before


def test_whatever_kind_of_handler_answers_is_counted() -> None:
    """Handlers that write their answers themselves, and those of others that refuse without reading."""

    async def writes(request: bytes, context: grpc.aio.ServicerContext) -> None:
        await context.write(request)

    async def refuses(requests: object, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "who?", ((ERROR_KIND_KEY, "UnauthenticatedError"),))
        yield b""

    handlers = {"Open": grpc.unary_stream_rpc_method_handler(writes), "Verify": grpc.stream_stream_rpc_method_handler(refuses)}

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            return handlers.get(details.method.rpartition("/")[2], handlers["Verify"])

    async def live() -> None:
        metrics = Metrics(ScriptedEngine(), max_draft_tokens=4, max_sessions=9)
        server = grpc.aio.server(interceptors=(Calls(metrics),))
        server.add_generic_rpc_handlers((Handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert await channel.unary_unary(f"/{SERVICE}/Open")(b"said", timeout=30) == b"said"
            for method in ("Verify", "MadeUp"):
                with pytest.raises(grpc.aio.AioRpcError, match="who"):
                    await channel.unary_unary(f"/{SERVICE}/{method}")(b"", timeout=30)
        await server.stop(30)  # after which each call has ended
        found = samples(generate_latest(metrics.registry).decode())
        assert found[of("synera_requests_total", method="Open", code="OK")] == 1
        assert found[of("synera_requests_total", method="Verify", code="UNAUTHENTICATED")] == 1
        assert found[of("synera_rejections_total", reason="UnauthenticatedError")] == 1
        assert not [labels for _, labels in found if ("method", "MadeUp") in labels]

    asyncio.run(asyncio.wait_for(live(), 60))


def test_what_is_logged_of_a_call_carries_its_number_and_its_peer(world: World, caplog: pytest.LogCaptureFixture) -> None:
    refused(world.stub.Verify, pb.VerifyRequest(session_id="x", seq=1))
    refused(world.stub.Verify, pb.VerifyRequest(session_id="y", seq=1))
    device = Honest(world.stub, world.tokenizer_hash, [1])
    device.close()
    said = [each.fields for each in caplog.records if each.name in ("cloud.service", "cloud.sessions")]  # type: ignore[attr-defined]
    assert [each["request"] for each in said] == [1, 2, 4]
    assert all(str(each["peer"]).startswith("ipv4:127.0.0.1:") for each in said)
    assert said[-1]["session"] == device.session_id
    assert said[-1]["account"] == said[-1]["peer"]  # nobody has said who it is


def test_no_token_and_no_secret_is_logged(world: World, caplog: pytest.LogCaptureFixture) -> None:
    secret, prompt = "swordfish-4711", [41, 42, 43, 44]
    told = (("authorization", f"Bearer {secret}"),)
    session_id = world.stub.Open(
        pb.OpenRequest(tokenizer_hash=world.tokenizer_hash, key="ab" * 16), timeout=30, metadata=told
    ).session_id
    request = pb.VerifyRequest(session_id=session_id, seq=1, context=prompt, draft=[45, 46])
    world.stub.Verify(request, timeout=30, metadata=told)
    refused(world.stub.Verify, pb.VerifyRequest(session_id=session_id, seq=5, context=prompt), metadata=told)
    list(world.stub.Generate(pb.GenerateRequest(prompt=prompt, max_new_tokens=3), timeout=30, metadata=told))
    world.stub.Close(pb.CloseRequest(session_id=session_id), timeout=30, metadata=told)
    lines = [JsonFormatter().format(each) for each in caplog.records if each.name.startswith("cloud.")]
    assert len(lines) >= 3
    assert not [line for line in lines if secret in line or "ab" * 16 in line or "41, 42" in line or "45, 46" in line]
