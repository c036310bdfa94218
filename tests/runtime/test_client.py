from __future__ import annotations

import socket
import threading
from pathlib import Path

import grpc
import pytest

from runtime.client import CloudClient, Deadlines
from runtime.credentials import Credentials
from runtime.errors import (
    CloudBusyError,
    CloudError,
    CloudRejectedError,
    CloudUnavailableError,
    LateError,
    PlaintextRefusedError,
    SettingError,
)
from runtime.synera.verifier import CloudVerifier
from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import (
    verify_request_bytes,
)
from tests.support.engine import VOCAB, continuation
from tests.support.gate import gate
from tests.support.hostile import fails, hostile
from tests.support.verifying import PROMPT, World, lost, try_all


def test_model_info(world: World) -> None:
    info = world.client.model_info()
    assert (info.model, info.engine, info.vocab, info.context_tokens, info.paced) == ("fake", "fake", VOCAB, 100, False)
    assert (info.tokenizer_hash, info.max_draft_tokens, info.eos_ids) == (world.tokenizer_hash, 16, ())


def test_generate_streams_the_llms_answer(world: World) -> None:
    tokens = list(world.client.generate(PROMPT, 10))
    assert [each.token for each in tokens] == continuation(PROMPT, 10)
    assert all(each.queue_seconds >= 0 and each.compute_seconds > 0 for each in tokens)


def test_closing_a_stream_frees_its_session(world: World) -> None:
    for _ in range(5):  # more than the cloud has sessions
        stream = world.client.generate(PROMPT, 90)
        assert next(stream).token == continuation(PROMPT, 1)[0]
        stream.close()
        poll(lambda: not list(try_all(world)))


def poll(condition: object) -> None:
    for _ in range(500):
        if condition():  # type: ignore[operator]
            return
        threading.Event().wait(0.02)
    raise AssertionError("it never became true")


def test_an_absent_cloud_is_one_clear_error(absent: str) -> None:
    with CloudClient(absent) as client:
        for call in (client.model_info, lambda: client.open("hash"), lambda: next(client.generate(PROMPT, 3))):
            with pytest.raises(CloudUnavailableError, match=f"no verifier answers at {absent}.*start one with"):
                call()


def test_past_its_deadline_the_cloud_is_unavailable(world: World) -> None:
    world.forward.gate.clear()
    with (
        CloudClient(world.client.target, deadlines=Deadlines(verify_seconds=0.2)) as client,
        CloudVerifier(client, world.terms) as verifier,
    ):
        verifier.submit(PROMPT, [1])
        late = lost(verifier)
        assert isinstance(late.error, CloudUnavailableError)
        assert "did not answer in time" in str(late.error)
        assert late.uplink_bytes > verify_request_bytes(0, PROMPT, [1], 1)


class Refused(grpc.RpcError):
    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "details"

    def trailing_metadata(self) -> None:
        return None


@pytest.mark.parametrize(
    ("code", "calls", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, 4, CloudUnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 1, LateError),
        (grpc.StatusCode.CANCELLED, 1, CloudUnavailableError),
        (grpc.StatusCode.UNIMPLEMENTED, 1, CloudRejectedError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 1, CloudRejectedError),
        (grpc.StatusCode.UNKNOWN, 1, CloudError),
    ],
)
def test_only_unavailable_is_tried_again(code: grpc.StatusCode, calls: int, kind: type[CloudError], absent: str) -> None:
    timeouts = []

    def method(request: object, timeout: float, metadata: object) -> None:
        timeouts.append(timeout)
        raise Refused(code)

    with CloudClient(absent) as client, pytest.raises(kind) as caught:
        client._call(method, None, deadline_seconds=5.0)
    assert type(caught.value) is kind
    assert len(timeouts) == calls
    assert timeouts == sorted(timeouts, reverse=True)  # one deadline for all attempts
    assert timeouts[0] <= 5.0


def test_a_call_that_comes_back_after_a_retry_succeeds(absent: str) -> None:
    answers = [Refused(grpc.StatusCode.UNAVAILABLE), None]

    def method(request: str, timeout: float, metadata: object) -> str:
        if failed := answers.pop(0):
            raise failed
        return request

    with CloudClient(absent) as client:
        assert client._call(method, "asked", deadline_seconds=5.0) == "asked"


def reaches(target: str) -> str:
    with CloudClient(target, deadlines=Deadlines(info_seconds=20)) as client:
        return client.model_info().model


@pytest.mark.parametrize("name", ["http_proxy", "https_proxy", "grpc_proxy", "GRPC_ADDRESS_HTTP_PROXY"])
def test_no_proxy_of_the_environment_sees_a_call(name: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a call to an address nor one to a name; the proxy is a real one that lets nothing through."""
    heard = []

    def refuse(connection: socket.socket) -> None:
        heard.append(connection.recv(100))

    with gate(instead=refuse) as proxy:
        monkeypatch.setenv(name, proxy.target if name.startswith("GRPC") else f"http://{proxy.target}")
        monkeypatch.setenv("GRPC_ADDRESS_HTTP_PROXY_ENABLED_ADDRESSES", "127.0.0.0/8,::1/128")
        for other in ("no_proxy", "no_grpc_proxy"):
            monkeypatch.delenv(other, raising=False)
        assert reaches(world.client.target) == "fake"
        assert reaches(world.client.target.replace("127.0.0.1", "localhost")) == "fake"
        assert heard == []


def test_the_proxy_of_that_test_is_one_that_grpc_would_use(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []
    with gate(instead=lambda connection: heard.append(connection.recv(100))) as proxy:
        monkeypatch.setenv("grpc_proxy", f"http://{proxy.target}")
        with grpc.insecure_channel(world.client.target) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/a/b")(b"", timeout=20)
    assert heard[0].startswith(b"CONNECT")


@pytest.mark.parametrize("target", ["127.0.0.1:99999", "127.0.0.1:0", "::1:5", "127.1:50051", "unix:/x", "http://127.0.0.1:5"])
def test_what_is_no_address_is_refused_before_anything_is_dialled(target: str) -> None:
    with pytest.raises(SettingError, match="is not HOST:PORT"):
        CloudClient(target)


def test_plaintext_to_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PlaintextRefusedError, match=r"refused plaintext on 192\.0\.2\.1.*give tls_ca"):
        CloudClient("192.0.2.1:50051")
    CloudClient("192.0.2.1:50051", allow_plaintext=True).close()
    with pytest.raises(FileNotFoundError):
        CloudClient("192.0.2.1:50051", credentials=Credentials(tls_ca=tmp_path / "none.pem"))


@pytest.mark.parametrize(
    "content", [b"", b"no certificate\n", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_an_authority_without_a_certificate_is_refused_before_anything_is_dialled(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(content)
    with pytest.raises(SettingError, match=r"tls_ca='.*ca.pem' holds no certificate"):
        CloudClient("192.0.2.1:50051", credentials=Credentials(tls_ca=tmp_path / "ca.pem"))


def test_deadlines_are_checked() -> None:
    with pytest.raises(ValueError, match=r"open_seconds=0 must be a number in 0\.001\.\.86400"):
        Deadlines(open_seconds=0)


@pytest.mark.parametrize(
    ("named", "seconds"),
    [({"synera_retry_after_ms": "2500"}, 2.5), ({"synera_retry_after_ms": "never"}, None), ({}, None)],
)
def test_a_busy_cloud_says_when_to_try_again(named: dict[str, str], seconds: float | None) -> None:
    full = fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", "CloudBusyError", **named)
    with hostile(pb.ModelInfoResponse(), {"Open": full}) as server, CloudClient(server.target) as client:
        with pytest.raises(CloudBusyError, match=r"^full$") as busy:
            client.open("hash")
        assert busy.value.retry_after_seconds == seconds
