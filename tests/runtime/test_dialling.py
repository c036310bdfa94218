from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import grpc
import pytest

from runtime.credentials import Credentials
from runtime.dialling import addresses_of, dialled
from runtime.errors import CloudUnavailableError, PlaintextRefusedError, SettingError
from runtime.wire import synera_pb2 as pb
from runtime.wire.address import Address
from tests.support.certificates import TestAuthority
from tests.support.hostile import hostile

INFO = pb.ModelInfoResponse(fingerprint="f" * 16, tokenizer_hash="t" * 16, context_tokens=256, max_draft_tokens=16, vocab=50)


def resolving(monkeypatch: pytest.MonkeyPatch, **names: list[str]) -> None:
    """Let names, whose dots are written as underscores, have these addresses, and no other name any."""

    def look_up(host: str, port: int, family: int, kind: int) -> list[Any]:
        found = [each for each in names.get(host.replace(".", "_"), []) if (":" in each) == (family == socket.AF_INET6)]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(family, kind, 6, "", (each, port)) for each in found]

    monkeypatch.setattr("socket.getaddrinfo", look_up)


def test_several_addresses_are_several_replicas() -> None:
    with dialled("127.0.0.1:1,[::1]:2,localhost:3") as clients:
        assert [client.target for client in clients] == ["127.0.0.1:1", "[::1]:2", "localhost:3"]


@pytest.mark.parametrize("targets", ["", ",", "127.0.0.1:1,", "127.0.0.1:1,,127.0.0.1:2", "127.0.0.1:1 127.0.0.1:2", "a:1;b:2"])
def test_a_list_with_something_else_in_it_is_refused(targets: str) -> None:
    with pytest.raises(SettingError, match="is not HOST:PORT"), dialled(targets):
        pass


def test_a_verifier_that_is_named_twice_is_refused() -> None:
    with pytest.raises(SettingError, match="localhost:1 is named twice"), dialled("localhost:1,LOCALHOST:1"):
        pass


def test_plaintext_to_one_of_several_is_refused_before_a_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", None)
    with pytest.raises(PlaintextRefusedError, match=r"cloud\.example"), dialled("127.0.0.1:1,cloud.example:2"):
        pass


def test_a_name_of_several_addresses_is_a_replica_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, pods_example=["10.0.0.2", "10.0.0.1", "10.0.0.2"], one_example=["10.0.0.3"])
    with dialled("pods.example:5,one.example:5,gone.example:5", allow_plaintext=True) as clients:
        assert [client.target for client in clients] == ["10.0.0.1:5", "10.0.0.2:5", "one.example:5", "gone.example:5"]


def test_the_two_families_of_a_host_are_one_verifier(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(
        monkeypatch, both=["::1", "127.0.0.1"], six=["fd00::2", "fd00::1"], mixed=["fd00::2", "fd00::1", "1.1.1.1", "1.1.1.2"]
    )
    assert addresses_of(Address.parse("both:1")) == ()
    assert addresses_of(Address.parse("six:1")) == (Address("fd00::1", 1), Address("fd00::2", 1))
    assert addresses_of(Address.parse("mixed:1")) == (Address("1.1.1.1", 1), Address("1.1.1.2", 1))
    monkeypatch.setattr("socket.getaddrinfo", None)
    assert addresses_of(Address.parse("127.0.0.1:1")) == addresses_of(Address.parse("[::1]:1")) == ()


@pytest.mark.parametrize(("name", "reached"), [("localhost", True), ("another.example", False)])
def test_the_certificate_must_be_of_the_name_and_not_of_the_address(
    name: str, reached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = TestAuthority.make(tmp_path)
    own = authority.server("verifier")  # of localhost and of 127.0.0.1
    resolving(monkeypatch, **{name.replace(".", "_"): ["127.0.0.1", "127.0.0.2"]})
    tls = grpc.ssl_server_credentials([(own.key.read_bytes(), own.certificate.read_bytes())])
    with hostile(INFO, {}, tls) as server:
        port = server.target.split(":")[1]
        with dialled(f"{name}:{port}", credentials=Credentials(authority.file)) as clients:
            assert [client.target for client in clients] == [f"127.0.0.1:{port}", f"127.0.0.2:{port}"]
            if reached:
                assert clients[0].model_info().fingerprint == INFO.fingerprint
            else:
                with pytest.raises(CloudUnavailableError):
                    clients[0].model_info()
