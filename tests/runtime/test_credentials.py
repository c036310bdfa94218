from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.client import CloudClient, Deadlines
from runtime.credentials import MOST_TOKEN_CHARACTERS, Credentials, read_token, too_open
from runtime.errors import CloudUnavailableError, PlaintextRefusedError, SettingError, UnauthenticatedError
from runtime.wire import TOKEN_KEY
from runtime.wire import synera_pb2 as pb
from tests.support.certificates import TestAuthority
from tests.support.hostile import HostileServer, fails, hostile

TOKEN = "s3cret.Token_of~a+device/1-=="
INFO = pb.ModelInfoResponse(fingerprint="f" * 16, tokenizer_hash="t" * 16, context_tokens=256, max_draft_tokens=16, vocab=50)


def secret(path: Path, content: bytes = TOKEN.encode(), mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    return TestAuthority.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def verifier() -> Iterator[HostileServer]:
    stream = {"Generate": lambda asked: iter([pb.GenerateResponse(token=1, queue_ms=0, compute_ms=0)])}
    with hostile(INFO, stream) as server:  # type: ignore[arg-type]
        yield server


def test_a_token_goes_with_every_call(verifier: HostileServer) -> None:
    with CloudClient(verifier.target, credentials=Credentials(token=TOKEN)) as client:
        client.model_info()
        session = client.open("t" * 16).session_id
        client.close_session(session)
        assert [each.token for each in client.generate([1], 1)] == [1]
        for elsewhere in (False, True):
            ended: list[object] = []
            client.ask("ModelInfo", pb.ModelInfoRequest(), 20, ended.append, elsewhere=elsewhere)._future.result()
    assert [each.get(TOKEN_KEY) for each in verifier.metadata] == [f"Bearer {TOKEN}"] * 6


def test_without_a_token_none_is_sent(verifier: HostileServer) -> None:
    with CloudClient(verifier.target) as client:
        client.model_info()
    assert TOKEN_KEY not in verifier.metadata[0]


def test_a_token_crosses_no_network_in_plaintext_unless_that_is_wanted() -> None:
    with pytest.raises(PlaintextRefusedError) as refused:
        CloudClient("192.0.2.1:50051", credentials=Credentials(token=TOKEN))
    assert TOKEN not in str(refused.value)
    CloudClient("192.0.2.1:50051", credentials=Credentials(token=TOKEN), allow_plaintext=True).close()


def test_a_token_shows_nowhere(absent: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    credentials = Credentials(token=TOKEN)
    assert TOKEN not in f"{credentials} {credentials!r}"
    with CloudClient(absent, credentials=credentials) as client, pytest.raises(CloudUnavailableError) as error:
        client.model_info()
    assert TOKEN not in f"{error.value!r} {error.getrepr(style='long', showlocals=False)}"
    with (
        hostile(INFO, {"ModelInfo": fails(grpc.StatusCode.UNAUTHENTICATED)}) as server,
        CloudClient(server.target, credentials=credentials) as client,
        pytest.raises(UnauthenticatedError) as unknown,
    ):
        client.model_info()
    assert TOKEN not in str(unknown.value)
    assert TOKEN not in caplog.text


def test_who_is_not_taken_is_told_in_one_line_whose_word_it_was() -> None:
    for kind in ("UnauthenticatedError", None):  # a proxy's word has no kind
        with (
            hostile(INFO, {"ModelInfo": fails(grpc.StatusCode.UNAUTHENTICATED, "no such token", kind)}) as server,
            CloudClient(server.target) as client,
            pytest.raises(UnauthenticatedError) as error,
        ):
            client.model_info()
        assert f"the verifier at {server.target} does not take this device (UNAUTHENTICATED: no such token)" in str(error.value)
        assert "--token-file" in str(error.value)
        assert len(server.asked) == 1  # asking again would not help


# ---------------------------------------------------------------- files of a token


@pytest.mark.parametrize("content", [TOKEN, f"{TOKEN}\n", f"  {TOKEN} \r\n", "x", "x" * MOST_TOKEN_CHARACTERS])
def test_a_token_is_read_without_the_line_s_end(content: str, tmp_path: Path) -> None:
    assert read_token(secret(tmp_path / "token", content.encode())) == content.strip()


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"two words", b"two\nlines", b"na\xc3\xafve", b"\xff\xfe", b"x" * (MOST_TOKEN_CHARACTERS + 1), b"a=b", b"\0"],
)
def test_what_is_no_token_is_refused_and_not_shown(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"token_file='.*token' holds no token") as error:
        read_token(secret(tmp_path / "token", content))
    assert "two" not in str(error.value)
    if content.isascii():
        with pytest.raises(SettingError, match="the token must be") as error:
            Credentials(token=content.decode())
        assert "two" not in str(error.value)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o666, 0o777])
def test_a_token_that_others_may_use_is_refused(mode: int, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=rf"token_file='.*token' may be used by others \(mode {mode:04o}\); chmod 600"):
        read_token(secret(tmp_path / "token", mode=mode))


@given(st.integers(0, 0o777), st.integers(0, 2000))
def test_a_file_of_root_s_may_be_read_by_its_group_and_no_other_by_anybody_else(mode: int, owner: int) -> None:
    others = mode & 0o007 or mode & 0o030 or (mode & 0o040 and owner != 0)
    assert too_open(mode, owner) == bool(others)


def test_what_is_no_file_ends_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(SettingError, match="is not a file"):
            read_token(path)
    with pytest.raises(FileNotFoundError):
        read_token(tmp_path / "none")
    with pytest.raises(SettingError, match="is larger than"):
        read_token(secret(tmp_path / "large", b"x" * (1 << 20) + b"x"))


# ---------------------------------------------------------------- certificates


def served_to_clients_of(authority: TestAuthority) -> grpc.ServerCredentials:
    own = authority.server("verifier")
    return grpc.ssl_server_credentials(
        [(own.key.read_bytes(), own.certificate.read_bytes())], authority.file.read_bytes(), require_client_auth=True
    )


def test_a_device_s_certificate_opens_what_asks_for_one(authority: TestAuthority, tmp_path: Path) -> None:
    own, stranger = authority.client("device"), TestAuthority.make(tmp_path / "other", "other").client("device")
    once = Deadlines(info_seconds=0.5)
    with hostile(INFO, {}, served_to_clients_of(authority)) as server:
        credentials = Credentials(authority.file, own.certificate, own.key, TOKEN)
        with CloudClient(server.target, credentials=credentials) as client:
            assert client.model_info().fingerprint == INFO.fingerprint
        assert server.metadata[0][TOKEN_KEY] == f"Bearer {TOKEN}"
        for refused in (Credentials(authority.file), Credentials(authority.file, stranger.certificate, stranger.key)):
            with (
                CloudClient(server.target, credentials=refused, deadlines=once) as client,
                pytest.raises(CloudUnavailableError),
            ):
                client.model_info()
        assert len(server.asked) == 1


def test_a_verifier_that_another_authority_signed_gets_no_token(authority: TestAuthority, tmp_path: Path) -> None:
    own = TestAuthority.make(tmp_path / "other", "other").server("verifier")
    tls = grpc.ssl_server_credentials([(own.key.read_bytes(), own.certificate.read_bytes())])
    with (
        hostile(INFO, {}, tls) as server,
        CloudClient(
            server.target, credentials=Credentials(authority.file, token=TOKEN), deadlines=Deadlines(info_seconds=0.5)
        ) as client,
    ):
        with pytest.raises(CloudUnavailableError):
            client.model_info()
        assert server.metadata == []


def test_what_does_not_go_together_is_refused(authority: TestAuthority, tmp_path: Path) -> None:
    own, other = authority.client("device"), authority.client("another")
    with pytest.raises(SettingError, match="needs its key"):
        Credentials(authority.file, own.certificate)
    with pytest.raises(SettingError, match="needs its key"):
        Credentials(authority.file, key=own.key)
    with pytest.raises(SettingError, match="give tls_ca"):
        Credentials(certificate=own.certificate, key=own.key)
    with pytest.raises(SettingError, match=r"tls_ca: 'ca\.pem' must be a Path"):
        Credentials("ca.pem")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="token: what was given must be a str"):
        Credentials(token=b"secret")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"certificate '.*client-6.*' and key '.*client-7.*' cannot be used"):
        Credentials(authority.file, own.certificate, other.key).channel()
    with pytest.raises(SettingError, match="cannot be used"):
        Credentials(authority.file, own.certificate, secret(tmp_path / "garbage")).channel()
    own.key.chmod(0o644)
    with pytest.raises(SettingError, match=r"tls_key='.*' may be used by others \(mode 0644\)"):
        Credentials(authority.file, own.certificate, own.key).channel()
    with pytest.raises(FileNotFoundError):
        Credentials(authority.file, tmp_path / "none", other.key).channel()
