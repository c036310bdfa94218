from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud.config import ServerConfig
from cloud.server import running_server
from cloud.tokens import load_tokens
from runtime.client import CloudClient
from runtime.credentials import Credentials, read_token
from runtime.errors import SettingError, UnauthenticatedError
from runtime.wire import TOKEN_KEY, synera_pb2_grpc
from runtime.wire import synera_pb2 as pb
from scripts import make_certs
from scripts.make_certs import Arguments
from tests.scripts.test_readme import check_next_steps
from tests.support.certificates import Files, secure_channel_to
from tests.support.engine import FakeForward, fake_engine
from traces.errors import TraceError
from traces.files import replacing


def made(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in made(folder)}


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_what_is_made_is_what_a_verifier_and_its_devices_need(
    tmp_path: Path, tiny_llm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From one command to a call that is let in by certificate and token, and one that is not."""
    out = tmp_path / "new" / "certs"
    make_certs.main(Arguments(out, clients=("phone-1",), tokens=("phone-1",)))
    assert made(out) == {
        *("ca.pem", "ca-key.pem", "server.pem", "server-key.pem", "tokens"),
        *(f"clients/phone-1/{name}" for name in ("cert.pem", "key.pem", "token")),
    }
    tls = {"tls_certificate": out / "server.pem", "tls_key": out / "server-key.pem", "tls_ca": out / "ca.pem"}
    config = ServerConfig(model=tiny_llm, tokens=out / "tokens", **tls)  # type: ignore[arg-type]
    own = out / "clients" / "phone-1"
    with (
        running_server(config, engine=fake_engine(FakeForward())) as port,
        secure_channel_to(port, out / "ca.pem", Files(own / "cert.pem", own / "key.pem")) as channel,
    ):
        sent = ((TOKEN_KEY, f"Bearer {(own / 'token').read_text().strip()}"),)
        stub = synera_pb2_grpc.SyneraStub(channel)
        assert stub.ModelInfo(pb.ModelInfoRequest(), timeout=10, metadata=sent).engine == "fake"
        shown = Credentials(out / "ca.pem", own / "cert.pem", own / "key.pem", read_token(own / "token"))
        with CloudClient(f"localhost:{port}", credentials=shown) as client:
            assert client.model_info().engine == "fake"
    plain = ServerConfig(
        model=tiny_llm, tls_certificate=out / "server.pem", tls_key=out / "server-key.pem", tokens=out / "tokens"
    )
    with (
        running_server(plain, engine=fake_engine(FakeForward())) as port,
        CloudClient(f"localhost:{port}", credentials=Credentials(tls_ca=out / "ca.pem")) as client,
        pytest.raises(UnauthenticatedError),
    ):
        client.model_info()
    said = capsys.readouterr().out
    check_next_steps(said, tmp_path)
    assert f"synera serve --tls-cert {out}/server.pem" in said
    assert f"--tls-ca {out}/ca.pem --tokens {out}/tokens" in said
    assert (own / "token").read_text().strip() not in said


def test_secrets_are_their_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_certs.main(Arguments(tmp_path, clients=("a",), tokens=("a",)))
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in made(tmp_path)}
    secret = {name for name in modes if "key" in name or name.endswith("token")}
    assert len(secret) == 4
    assert {modes[name] for name in secret} == {0o600}
    assert {modes[name] for name in modes.keys() - secret} == {0o644}


def test_certificates_say_what_they_are_for(tmp_path: Path) -> None:
    make_certs.main(Arguments(tmp_path, server=("verifier.example.org", "10.0.0.7", "::1"), clients=("phone",), days=30))
    server, client = certificate(tmp_path / "server.pem"), certificate(tmp_path / "clients" / "phone" / "cert.pem")
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["verifier.example.org"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.7", "::1"]
    for each, use in ((server, ExtendedKeyUsageOID.SERVER_AUTH), (client, ExtendedKeyUsageOID.CLIENT_AUTH)):
        assert list(each.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [use]
        assert not each.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert 29 < (each.not_valid_after_utc - each.not_valid_before_utc).total_seconds() / 86_400 < 31
        each.verify_directly_issued_by(certificate(tmp_path / "ca.pem"))
    [named] = client.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert named.value == "phone"


def test_the_authority_that_is_there_signs_more_and_what_is_there_stays(tmp_path: Path) -> None:
    make_certs.main(Arguments(tmp_path, clients=("a",), tokens=("a",)))
    before = contents(tmp_path)
    make_certs.main(Arguments(tmp_path, clients=("b",), tokens=("b",)))
    after = contents(tmp_path)
    assert {name for name in before if after[name] != before[name]} == {"tokens"}
    assert after["tokens"].startswith(before["tokens"])
    certificate(tmp_path / "clients" / "b" / "cert.pem").verify_directly_issued_by(certificate(tmp_path / "ca.pem"))
    tokens = load_tokens(tmp_path / "tokens")
    assert [tokens.name_of((tmp_path / "clients" / name / "token").read_text().strip()) for name in "ab"] == ["a", "b"]


@pytest.mark.parametrize("again", [{"server": ("localhost",)}, {"clients": ("b", "a")}, {"tokens": ("b", "a")}])
def test_nothing_is_overwritten_unless_that_is_asked_for(again: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    make_certs.main(Arguments(tmp_path, clients=("a",), tokens=("a",)))
    before = contents(tmp_path)
    with pytest.raises(SettingError, match=r"is there already; keep it, or add --overwrite"):
        make_certs.main(Arguments(tmp_path, **again))  # type: ignore[arg-type]
    assert contents(tmp_path) == before
    make_certs.main(Arguments(tmp_path, overwrite=True, **again))  # type: ignore[arg-type]
    after = contents(tmp_path)
    changed = {name for name in before if after[name] != before[name]}
    wanted = {
        "server": {"server.pem", "server-key.pem"},
        "clients": {"clients/a/cert.pem", "clients/a/key.pem"},
        "tokens": {"clients/a/token", "tokens"},
    }
    assert changed == wanted[next(iter(again))]
    assert len(after["tokens"].splitlines()) == len(load_tokens(tmp_path / "tokens"))


def test_a_failure_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_certs.main(Arguments(tmp_path, clients=("a",)))
    before = contents(tmp_path)

    def fails(path: Path) -> object:
        if path.name == "key.pem":
            raise TraceError("the disk is full")
        return replacing(path)

    monkeypatch.setattr(make_certs, "replacing", fails)
    with pytest.raises(TraceError):
        make_certs.main(Arguments(tmp_path, server=("localhost",), clients=("a",), overwrite=True))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("wrong", ["ca.pem", "ca-key.pem"])
@pytest.mark.parametrize("how", ["gone", "garbage", "another's"])
def test_an_authority_that_is_not_whole_is_told(wrong: str, how: str, tmp_path: Path) -> None:
    make_certs.main(Arguments(tmp_path / "certs"))
    make_certs.main(Arguments(tmp_path / "other"))
    path = tmp_path / "certs" / wrong
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"garbage" if how == "garbage" else (tmp_path / "other" / wrong).read_bytes())
    before = contents(tmp_path)
    with pytest.raises(SettingError, match=r"cannot sign with .*ca\.pem' and ca-key\.pem: .*; name another folder with --out"):
        make_certs.main(Arguments(tmp_path / "certs", clients=("a",)))
    assert contents(tmp_path) == before


def test_elsewhere_the_next_commands_name_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_certs.main(Arguments(tmp_path, server=("verifier.example.org", "10.0.0.7")))
    said = capsys.readouterr().out
    check_next_steps(said, tmp_path)
    assert f"synera serve --host 0.0.0.0 --tls-cert {tmp_path}/server.pem --tls-key {tmp_path}/server-key.pem\n" in said
    assert f"--tls-ca {tmp_path}/ca.pem --cloud verifier.example.org:50051" in said
