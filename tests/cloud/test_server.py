from __future__ import annotations

import random
import re
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
from cloud.server import SERVICE, ServerStartError, running_server
from runtime.client import CloudClient
from runtime.errors import CheckpointError, CloudRejectedError, CloudUnavailableError
from runtime.model.tokenizer import tokenizer_hash
from runtime.synera.verifier import CloudVerifier
from runtime.wire.address import PlaintextRefusedError
from tests.support.engine import FakeForward, continuation, fake_engine, greedy
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


class Slow:
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


def test_a_taken_port_is_told(tiny_llm: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ServerStartError, match=f"cannot listen on 127.0.0.1:{port}: is the port taken"),
            running_server(ServerConfig(model=tiny_llm, port=port), engine=fake_engine(FakeForward())),
        ):
            pass


def test_a_missing_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no model at {tmp_path}"), running_server(ServerConfig(model=tmp_path)):
        pass


def test_tls(tiny_llm: Path, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-keyout",
        key,
        "-out",
        certificate,
        *subject,
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    config = ServerConfig(model=tiny_llm, host="0.0.0.0", tls_certificate=certificate, tls_key=key)
    with (
        running_server(config, engine=fake_engine(FakeForward())) as port,
        CloudClient(f"127.0.0.1:{port}", tls_ca=certificate) as client,
    ):
        assert client.model_info().engine == "fake"
    absent = ServerConfig(model=tiny_llm, tls_certificate=certificate, tls_key=tmp_path / "none.pem")
    with (
        pytest.raises(ServerStartError, match=r"cannot read the TLS files.*none\.pem"),
        running_server(absent, engine=fake_engine(FakeForward())),
    ):
        pass
