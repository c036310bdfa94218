from __future__ import annotations

import asyncio
import json
import logging
import random
import re
import shutil
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cloud.config import ServerConfig
from cloud.engine.base import Check, Checked
from cloud.log import KeyValueFormatter
from cloud.server import CloudServer, ServerStartError, running_server
from cloud.service import SERVICE
from runtime.client import CloudClient
from runtime.credentials import Credentials
from runtime.errors import CheckpointError, CloudRejectedError, CloudUnavailableError, PlaintextRefusedError, SettingError
from runtime.model.tokenizer import tokenizer_hash
from runtime.synera.verifier import CloudVerifier
from runtime.wire import synera_pb2 as pb
from runtime.wire import synera_pb2_grpc
from tests.support.engine import FakeForward, continuation, fake_engine, greedy
from tests.support.paces import NoWait
from tests.support.raw import Refusal, channel_to, poll, refused
from tests.support.verifying import agreed, lost, verdict_of

ANSWER = 24


def verify_always(client: CloudClient, folder: Path, prompt: list[int], truth: list[int], seed: int) -> list[int]:
    """Decode with drafts that are right up to a random place."""
    rng, answer = random.Random(seed), []
    with CloudVerifier(client, agreed(client)) as verifier:
        verifier.open(len(prompt))
        while len(answer) < ANSWER:
            ahead = truth[len(answer) : len(answer) + rng.randint(0, 8)]
            draft = [token if rng.random() < 0.8 else rng.randrange(700) for token in ahead]
            verifier.submit((*prompt, *answer), draft)
            verdict = verdict_of(verifier)
            answer += [*draft[: verdict.accepted], verdict.next_token]
    return answer[:ANSWER]


def test_eight_sessions_at_once_write_what_the_llm_alone_would(tiny_llm: Path) -> None:
    prompts = [[1, *(random.Random(i).randrange(3, 700) for _ in range(3 + 5 * i))] for i in range(8)]
    truths = [greedy(tiny_llm, prompt, ANSWER) for prompt in prompts]
    with running_server(ServerConfig(model=tiny_llm)) as port, CloudClient(f"127.0.0.1:{port}") as client:
        with ThreadPoolExecutor(9) as devices:
            answers = [
                devices.submit(verify_always, client, tiny_llm, p, t, i)
                for i, (p, t) in enumerate(zip(prompts, truths, strict=True))
            ]
            stream = devices.submit(lambda: [each.token for each in client.generate(prompts[0], ANSWER)])
            assert [each.result() for each in answers] == truths
        ends = truths[0].index(2) + 1 if 2 in truths[0] else ANSWER
        assert stream.result() == truths[0][:ends]


def test_the_end_of_the_context_is_told(tiny_llm: Path) -> None:
    with (
        running_server(ServerConfig(model=tiny_llm)) as port,
        CloudClient(f"127.0.0.1:{port}") as client,
        CloudVerifier(client, agreed(client)) as verifier,
    ):
        verifier.submit([5] * 255, [7])
        assert verdict_of(verifier).cloud_tokens == 256
        verifier.submit([5] * 255, [7, 7])
        rejected = lost(verifier).error
        assert isinstance(rejected, CloudRejectedError)
        assert "255 tokens of history and 2 of draft exceed the LLM's context of 256" in str(rejected)


def test_health_and_reflection_answer(tiny_llm: Path) -> None:
    with (
        running_server(ServerConfig(model=tiny_llm), engine=fake_engine(FakeForward())) as port,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        [listed] = reflection.ServerReflectionInfo(asked, timeout=10)
        assert "synera.v1.Synera" in {each.name for each in listed.list_services_response.service}


def test_a_stopping_server_says_not_serving_and_finishes_what_runs(tiny_llm: Path) -> None:
    forward, statuses = FakeForward(), []
    with ThreadPoolExecutor(1) as device, grpc.insecure_channel("127.0.0.1:0"):
        with running_server(ServerConfig(model=tiny_llm, grace_seconds=20), engine=fake_engine(forward)) as port:
            client = CloudClient(f"127.0.0.1:{port}")
            verifier = CloudVerifier(client, agreed(client))
            channel = grpc.insecure_channel(f"127.0.0.1:{port}")
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
            statuses.append(next(watch).status)
            forward.gate.clear()
            verifier.submit([1, 2], continuation([1, 2], 2))
            assert forward.entered.wait(30)

            def release() -> None:
                statuses.append(next(watch).status)  # comes only once the server is stopping
                watch.cancel()
                forward.gate.set()

            released = device.submit(release)
        released.result()
        assert verdict_of(verifier).accepted == 2
        verifier.retire().result()
        client.close()
        channel.close()
    assert statuses == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]


def test_a_server_whose_engine_dies_says_not_serving_and_fails_what_waits_and_comes(tiny_llm: Path) -> None:
    forward = FakeForward()
    with (
        running_server(ServerConfig(model=tiny_llm, grace_seconds=0), engine=fake_engine(forward)) as port,
        CloudClient(f"127.0.0.1:{port}") as client,
        CloudVerifier(client, agreed(client)) as verifier,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        forward.failures.append(SystemExit("planted"))
        verifier.submit([1, 2], [3])
        dead = lost(verifier).error
        assert isinstance(dead, CloudUnavailableError)
        assert re.search(r"planted.*restart the verifier", str(dead))
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        for call in (lambda: client.open(tokenizer_hash(tiny_llm)), lambda: next(client.generate([1], 3))):
            with pytest.raises(CloudUnavailableError, match="planted"):
                call()


def test_an_engine_that_fails_a_batch_goes_on_serving(tiny_llm: Path) -> None:
    forward = FakeForward()
    with (
        running_server(ServerConfig(model=tiny_llm), engine=fake_engine(forward)) as port,
        CloudClient(f"127.0.0.1:{port}") as client,
        CloudVerifier(client, agreed(client)) as verifier,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        forward.short = 1
        verifier.submit([1, 2], [3])
        assert "the forward gave 0 results" in str(lost(verifier).error)
        verifier.submit([1, 2], continuation([1, 2], 2))
        assert verdict_of(verifier).accepted == 2
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_a_stopped_server_leaves_no_thread(tiny_llm: Path) -> None:
    with (
        running_server(ServerConfig(model=tiny_llm), engine=fake_engine(FakeForward())) as port,
        CloudClient(f"127.0.0.1:{port}") as client,
    ):
        client.model_info()
        assert {"cloud server", "engine"} <= {thread.name for thread in threading.enumerate()}
    assert not {"cloud server", "engine"} & {thread.name for thread in threading.enumerate()}


class Slow(NoWait):
    def forward_seconds(self, tokens: int) -> float:
        return 0.01 * tokens


def test_a_paced_server_reports_the_profiles_durations(tiny_llm: Path) -> None:
    with (
        running_server(ServerConfig(model=tiny_llm, pace=Slow())) as port,
        CloudClient(f"127.0.0.1:{port}") as client,
    ):
        assert client.model_info().paced
        with CloudVerifier(client, agreed(client)) as verifier:
            verifier.submit([1, 2, 3], [4])
            assert verdict_of(verifier).compute_seconds >= 0.04


def test_plaintext_on_a_reachable_address_is_refused(tiny_llm: Path) -> None:
    with (
        pytest.raises(PlaintextRefusedError, match=r"refused plaintext on 0\.0\.0\.0"),
        running_server(ServerConfig(model=tiny_llm, host="0.0.0.0")),
    ):
        pass
    with (
        running_server(
            ServerConfig(model=tiny_llm, host="0.0.0.0", allow_plaintext=True), engine=fake_engine(FakeForward())
        ) as port,
        CloudClient(f"localhost:{port}") as client,
    ):
        assert client.model_info().engine == "fake"


def test_a_taken_port_is_told_before_the_model_is_loaded(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ServerStartError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use; choose another"),
            running_server(ServerConfig(model=tmp_path / "no model", port=port)),
        ):
            pass
    assert capfd.readouterr() == ("", "")


def test_another_servers_port_is_taken(tiny_llm: Path) -> None:
    with (
        running_server(ServerConfig(model=tiny_llm), engine=fake_engine(FakeForward())) as port,
        pytest.raises(ServerStartError, match="Address already in use"),
        running_server(ServerConfig(model=tiny_llm, port=port), engine=fake_engine(FakeForward())),
    ):
        pass


@pytest.mark.parametrize("host", ["192.0.2.1", "1.2.3.999", "a..b", "no.such.host.invalid", "x" * 253])
def test_an_address_of_another_machine_is_told(host: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = ServerConfig(model=tmp_path / "no model", host=host, allow_plaintext=True)
    with (
        pytest.raises(ServerStartError, match=r"cannot listen on .*:0: .*; choose another port or host"),
        running_server(config),
    ):
        pass
    assert capfd.readouterr() == ("", "")


def test_a_missing_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no model at {tmp_path}"), running_server(ServerConfig(model=tmp_path)):
        pass


def test_a_model_whose_config_claims_more_tokens_than_its_embedding_has_is_refused_at_load(
    tiny_llm: Path, tmp_path: Path
) -> None:
    """Else the first such token would fail a forward, and all who share it."""
    folder = shutil.copytree(tiny_llm, tmp_path / "llm")
    stated = json.loads((folder / "config.json").read_text())
    rows = stated["vocab_size"]
    (folder / "config.json").write_text(json.dumps(stated | {"vocab_size": 1000}))
    message = rf"embed_tokens\.weight has shape \[{rows}, 32\], but config\.json asks for \[1000, 32\]"
    with pytest.raises(CheckpointError, match=message), running_server(ServerConfig(model=folder)):
        pass


def test_no_token_beyond_the_embedding_reaches_the_model(tiny_llm: Path) -> None:
    with running_server(ServerConfig(model=tiny_llm)) as port, channel_to(port) as channel:
        stub = synera_pb2_grpc.SyneraStub(channel)
        rows = stub.ModelInfo(pb.ModelInfoRequest()).vocab
        assert rows == json.loads((tiny_llm / "config.json").read_text())["vocab_size"]
        session_id = opened(stub, tiny_llm)
        for seq, (context, draft) in enumerate([([rows], []), ([1], [rows]), ([2**32 - 1], [])], 1):
            asked = pb.VerifyRequest(session_id=session_id, seq=seq, context=context, draft=draft)
            assert refused(stub.Verify, asked).kind == "CloudRejectedError"
        assert refused(stub.Generate, pb.GenerateRequest(prompt=[rows], max_new_tokens=1)).kind == "CloudRejectedError"
        asked = pb.VerifyRequest(session_id=session_id, seq=4, context=[rows - 1], draft=[rows - 1])
        assert stub.Verify(asked).processed_tokens == 2


def certificate(folder: Path, *key: str) -> tuple[Path, Path]:
    """A self-signed certificate of this machine and its key."""
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    files = folder / "cert.pem", folder / "key.pem"
    command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", *(key or ("-nodes",)), "-days", "2", *subject)
    folder.mkdir(exist_ok=True)
    try:
        subprocess.run((*command, "-out", files[0], "-keyout", files[1]), check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return files


def test_tls(tiny_llm: Path, tmp_path: Path) -> None:
    chain, key = certificate(tmp_path)
    config = ServerConfig(model=tiny_llm, host="0.0.0.0", tls_certificate=chain, tls_key=key)
    with (
        running_server(config, engine=fake_engine(FakeForward())) as port,
        CloudClient(f"127.0.0.1:{port}", credentials=Credentials(tls_ca=chain)) as client,
    ):
        assert client.model_info().engine == "fake"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("absent", r"cannot read the TLS key: '.*none\.pem' is not a file"),
        ("folder", r"cannot read the TLS key: '.*' is not a file"),
        ("device", r"cannot read the TLS key: '/dev/zero' is not a file"),
        ("long name", r"cannot read the TLS key '.*: File name too long"),
        ("garbage", r"cert\.pem' and key '.*garbage' cannot be used .*give PEM files that belong together"),
        ("empty", r"cert\.pem' and key '.*empty' cannot be used .*give PEM files"),
        ("another's", r"cannot be used \(.*key values mismatch.*\); give PEM files that belong together"),
        ("locked", r"cannot be used .*the key without a pass phrase"),
        ("certificate", r"cannot be used .*give PEM files"),
    ],
)
def test_unusable_tls_files_are_one_line_and_found_before_the_model_is_loaded(
    wrong: str, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chain, _ = certificate(tmp_path / "own")
    keys = {
        "absent": tmp_path / "none.pem",
        "folder": tmp_path,
        "device": Path("/dev/zero"),
        "long name": tmp_path / ("x" * 300),
        "garbage": tmp_path / "garbage",
        "empty": tmp_path / "empty",
        "another's": tmp_path / "other" / "key.pem",
        "locked": tmp_path / "other" / "key.pem",
        "certificate": chain,
    }
    keys["garbage"].write_bytes(b"\x00\xff-----BEGIN PRIVATE KEY-----\n!\x1b[31m\n-----END PRIVATE KEY-----\n")
    keys["empty"].write_bytes(b"")
    if wrong in ("another's", "locked"):
        other, _ = certificate(tmp_path / "other", *(("-passout", "pass:secret") if wrong == "locked" else ()))
        chain = chain if wrong == "another's" else other
    config = ServerConfig(model=tmp_path / "no model", tls_certificate=chain, tls_key=keys[wrong])
    with pytest.raises(SettingError, match=message) as caught, running_server(config):
        pass
    assert str(caught.value).isprintable()
    assert capfd.readouterr() == ("", "")  # nor does a library say more


# ---------------------------------------------------------------- life


def opened(stub: synera_pb2_grpc.SyneraStub, folder: Path) -> str:
    return stub.Open(pb.OpenRequest(tokenizer_hash=tokenizer_hash(folder))).session_id


def test_an_idle_server_frees_what_expired_without_being_asked(tiny_llm: Path) -> None:
    """Nobody calls any more after the checks; leases run on the test's clock, sweeps on the real one."""
    engine, seconds = fake_engine(FakeForward()), [0.0]
    config = ServerConfig(model=tiny_llm, lease_seconds=0.2)
    with running_server(config, engine=engine, now=lambda: seconds[0]) as port, channel_to(port) as channel:
        stub = synera_pb2_grpc.SyneraStub(channel)
        for _ in range(3):
            stub.Verify(pb.VerifyRequest(session_id=opened(stub, tiny_llm), seq=1, context=[1, 2]))
        seconds[0] = 0.1
        stub.Verify(pb.VerifyRequest(session_id=opened(stub, tiny_llm), seq=1, context=[1, 2]))
        poll(lambda: engine.usage.used_blocks == 4)
        seconds[0] = 0.2
        poll(lambda: engine.usage.used_blocks == 1)
        seconds[0] = 0.4
        poll(lambda: engine.usage.used_blocks == 0)


def test_a_real_lease_ends_on_a_real_server(tiny_llm: Path) -> None:
    engine = fake_engine(FakeForward())
    with (
        running_server(ServerConfig(model=tiny_llm, lease_seconds=0.1), engine=engine) as port,
        channel_to(port) as channel,
    ):
        stub = synera_pb2_grpc.SyneraStub(channel)
        stub.Verify(pb.VerifyRequest(session_id=opened(stub, tiny_llm), seq=1, context=[1, 2]))
        poll(lambda: engine.usage.used_blocks == 0)


def test_nothing_is_left_of_a_stopped_server(tiny_llm: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Stopped with idle sessions, a check in hand, one that waits, and a stream, and without any patience."""
    caplog.set_level(logging.INFO)
    forward = FakeForward()
    engine = fake_engine(forward)

    async def live() -> None:
        before = asyncio.all_tasks()
        server = CloudServer(ServerConfig(model=tiny_llm, grace_seconds=0), engine=engine)
        port = await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = synera_pb2_grpc.SyneraStub(channel)
            ids = [(await stub.Open(pb.OpenRequest(tokenizer_hash=tokenizer_hash(tiny_llm)))).session_id for _ in range(4)]
            await stub.Verify(pb.VerifyRequest(session_id=ids[0], seq=1, context=[1, 2]))
            forward.gate.clear()
            forward.entered.clear()
            calls = [stub.Verify(pb.VerifyRequest(session_id=each, seq=1, context=[1, 2])) for each in ids[1:3]]
            calls += [stub.Generate(pb.GenerateRequest(prompt=[1], max_new_tokens=90))]
            waiting = [asyncio.ensure_future(each.read() if hasattr(each, "read") else each) for each in calls]
            assert await asyncio.to_thread(forward.entered.wait, 30)
            stopping = asyncio.create_task(server.stop())
            await asyncio.wait(waiting)
            forward.gate.set()
            await stopping
            assert all(isinstance(each.exception(), grpc.aio.AioRpcError) for each in waiting)
        assert len(server._table) == 0
        assert asyncio.all_tasks() == before

    asyncio.run(asyncio.wait_for(live(), 60))
    assert engine.usage.used_blocks == engine.usage.waiting == 0
    assert "engine" not in {thread.name for thread in threading.enumerate()}
    [stopped] = [each for each in caplog.records if each.getMessage() == "stopped"]
    assert stopped.fields["sessions_ended"] >= 4  # type: ignore[attr-defined]  # and the stream, if it had not ended yet


def test_a_bug_leaves_a_trace_in_the_log_and_the_server_serves_on(tiny_llm: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = fake_engine(FakeForward())
    with running_server(ServerConfig(model=tiny_llm), engine=engine) as port, channel_to(port) as channel:
        stub = synera_pb2_grpc.SyneraStub(channel)
        broken, plain = opened(stub, tiny_llm), engine.check

        async def check(session_id: str, check: Check) -> Checked:
            if session_id == broken:
                return 1 // 0  # type: ignore[return-value]
            return await plain(session_id, check)

        engine.check = check  # type: ignore[method-assign]
        told = refused(stub.Verify, pb.VerifyRequest(session_id=broken, seq=1, context=[1, 2]))
        assert told == Refusal(grpc.StatusCode.INTERNAL, "a bug in the verifier: ZeroDivisionError", None)
        [record] = [each for each in caplog.records if each.levelname == "ERROR"]
        line = KeyValueFormatter().format(record)
        assert f'event="handler failed" method=Verify session={broken} reason="integer division' in line
        assert "in check" in line.rpartition(" trace=")[2]
        got = stub.Verify(pb.VerifyRequest(session_id=opened(stub, tiny_llm), seq=1, context=[1, 2]))
        assert got.next_token == continuation([1, 2], 1)[0]
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert health.status == health_pb2.HealthCheckResponse.SERVING


def test_start_death_and_stop_are_logged(tiny_llm: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    forward = FakeForward()
    with running_server(ServerConfig(model=tiny_llm), engine=fake_engine(forward)) as port, channel_to(port) as channel:
        stub = synera_pb2_grpc.SyneraStub(channel)
        forward.failures.append(SystemExit("planted"))
        refused(stub.Verify, pb.VerifyRequest(session_id=opened(stub, tiny_llm), seq=1, context=[1, 2]))
        poll(lambda: "engine died" in caplog.messages)
    lines = [KeyValueFormatter().format(each) for each in caplog.records if each.name.startswith("cloud.")]
    events = [line.partition(" event=")[2] for line in lines]
    assert events[0].startswith(f'started address=127.0.0.1:{port} model=fake engine=fake placement="float32 on cpu"')
    assert events[-1] == 'stopped sessions_ended=1 why="asked to"'
    assert any("the engine's thread died" in each and "SystemExit: planted" in each for each in events)
    assert any(each.startswith('"engine died" reason="the engine died of SystemExit') for each in events)
