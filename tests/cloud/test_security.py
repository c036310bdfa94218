"""Certificates that cannot be used, and certificates that are renewed while the server runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from cloud.config import ServerConfig
from cloud.security import server_credentials
from cloud.server import running_server
from runtime.errors import SettingError
from runtime.wire import synera_pb2 as pb
from runtime.wire import synera_pb2_grpc
from tests.support.certificates import Files, TestAuthority, secure_channel_to, written
from tests.support.engine import FakeForward, fake_engine
from tests.support.raw import Refusal, answer, poll

NOW = datetime.now(UTC)


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority.make(tmp_path / "ours")


@pytest.mark.parametrize(
    ("begins", "days", "says"),
    [
        (
            NOW - timedelta(days=9),
            2,
            rf"server\.pem' expired on {NOW - timedelta(days=7):%Y-%m-%d} \d\d:\d\d UTC; renew it, or",
        ),
        (NOW + timedelta(days=3), 2, r"server\.pem' is not valid before .* UTC; renew it, or set this machine's clock"),
    ],
)
def test_a_certificate_that_is_not_valid_now_is_told(
    begins: datetime, days: int, says: str, authority: TestAuthority, tmp_path: Path
) -> None:
    own = authority.server(begins=begins, days=days)
    config = ServerConfig(model=tmp_path / "no model", tls_certificate=own.certificate, tls_key=own.key)
    with pytest.raises(SettingError, match=says) as caught, running_server(config):
        pass
    assert str(caught.value).isprintable()


def _expired(folder: Path) -> bytes:
    from scripts._authority import Authority

    return Authority.make("old", 1, NOW - timedelta(days=5)).pair.certificate


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, r"cannot read the TLS authority of clients: '.*clients\.pem' is not a file"),
        (lambda _: b"", r"the authority of clients '.*clients\.pem' cannot be used .*give a PEM file of its certificate"),
        (lambda _: b"\x00\xff\x1b[31m", r"cannot be used"),
        (lambda folder: (folder / "server-key.pem").read_bytes(), r"cannot be used"),
        (_expired, r"the authority of clients '.*' expired on .* UTC; renew it"),
    ],
)
def test_an_authority_that_cannot_be_used_is_told(
    content: Callable[[Path], bytes] | None, says: str, authority: TestAuthority, capfd: pytest.CaptureFixture[str]
) -> None:
    own, path = authority.server(), authority.folder / "clients.pem"
    if content is not None:
        path.write_bytes(content(authority.folder))
    with pytest.raises(SettingError, match=says) as caught:
        server_credentials(own.certificate, own.key, path)
    assert str(caught.value).isprintable()
    assert capfd.readouterr() == ("", "")


def test_an_authority_that_is_over_may_stay_beside_its_successor(authority: TestAuthority) -> None:
    own, path = authority.server(), authority.folder / "clients.pem"
    path.write_bytes(_expired(authority.folder) + authority.file.read_bytes())
    assert isinstance(server_credentials(own.certificate, own.key, path), grpc.ServerCredentials)


def test_a_key_that_everybody_can_read_is_warned_of(authority: TestAuthority, caplog: pytest.LogCaptureFixture) -> None:
    own = authority.server()
    server_credentials(own.certificate, own.key)
    assert caplog.messages == []
    own.key.chmod(0o644)
    server_credentials(own.certificate, own.key)
    assert caplog.messages == ["the private key can be read by every user of this machine"]


# ---------------------------------------------------------------- renewal


def trusted(port: int, ca: Path, own: Files | None = None) -> bool:
    """Whether a new connection is made."""
    with secure_channel_to(port, ca, own) as channel:
        return not isinstance(answer(synera_pb2_grpc.SyneraStub(channel).ModelInfo, pb.ModelInfoRequest()), Refusal)


def serving(model: Path, own: Files, **options: Any) -> Any:
    config = ServerConfig(model=model, tls_certificate=own.certificate, tls_key=own.key, **options)
    return running_server(config, engine=fake_engine(FakeForward()))


def test_a_renewed_certificate_is_taken_and_connections_go_on(tiny_llm: Path, authority: TestAuthority, tmp_path: Path) -> None:
    own, new = authority.server(), TestAuthority.make(tmp_path / "new")
    with serving(tiny_llm, own) as port, secure_channel_to(port, authority.file) as before:
        stub = synera_pb2_grpc.SyneraStub(before)
        stub.ModelInfo(pb.ModelInfoRequest(), timeout=10)
        assert not trusted(port, new.file)
        written(authority.folder / "server", new.authority.server(("localhost", "127.0.0.1"), 2))
        poll(lambda: trusted(port, new.file))
        assert not trusted(port, authority.file)
        assert stub.ModelInfo(pb.ModelInfoRequest(), timeout=10).engine == "fake"


def test_while_a_renewal_is_half_done_the_old_certificate_serves(
    tiny_llm: Path, authority: TestAuthority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "cloud")
    own, new = authority.server(), TestAuthority.make(tmp_path / "new")
    with serving(tiny_llm, own) as port:
        pair = new.authority.server(("localhost", "127.0.0.1"), 2)
        own.certificate.write_bytes(pair.certificate)
        poll(lambda: trusted(port, authority.file) and "certificates not renewed" in caplog.messages)
        assert trusted(port, authority.file)
        own.key.write_bytes(pair.key)
        poll(lambda: trusted(port, new.file))
    assert caplog.messages.count("certificates not renewed") == 1
    assert "certificates renewed" in caplog.messages


def test_an_authority_of_clients_that_is_replaced_ends_their_admission(
    tiny_llm: Path, authority: TestAuthority, tmp_path: Path
) -> None:
    new, clients = TestAuthority.make(tmp_path / "new"), tmp_path / "clients.pem"
    clients.write_bytes(authority.file.read_bytes())
    with serving(tiny_llm, authority.server(), tls_ca=clients) as port:
        old_phone, new_phone = authority.client(), new.client()
        assert trusted(port, authority.file, old_phone)
        assert not trusted(port, authority.file, new_phone)
        clients.write_bytes(new.file.read_bytes())
        poll(lambda: trusted(port, authority.file, new_phone))
        assert not trusted(port, authority.file, old_phone)
