"""Who is let in, and who is called what, through real gRPC on loopback."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cloud.config import ServerConfig
from cloud.identity import client_of
from cloud.server import running_server
from cloud.service import SyneraServicer
from cloud.tokens import new_token, token_line
from runtime.client import CloudClient
from runtime.errors import UnauthenticatedError
from runtime.model.tokenizer import tokenizer_hash
from runtime.wire import TOKEN_KEY, synera_pb2_grpc
from runtime.wire import synera_pb2 as pb
from scripts._authority import Pair
from tests.support.certificates import Files, TestAuthority, secure_channel_to, written
from tests.support.engine import FakeForward, fake_engine
from tests.support.raw import Refusal, answer, channel_to, poll, refused

UNKNOWN = (grpc.StatusCode.UNAUTHENTICATED, "UnauthenticatedError")


def bearer(token: str) -> dict[str, Any]:
    return {"metadata": ((TOKEN_KEY, f"Bearer {token}"),)}


@dataclass
class World:
    """A verifier that tells with ModelInfo who asks, an authority that it knows, and a file of tokens."""

    model: Path
    authority: TestAuthority
    tokens: Path
    token_of: dict[str, str] = field(default_factory=dict)

    def add_token(self, name: str) -> str:
        self.token_of[name] = new_token()
        self.tokens.write_text("".join(f"{token_line(*each)}\n" for each in self.token_of.items()))
        return self.token_of[name]

    @contextmanager
    def served(self, **options: Any) -> Iterator[int]:
        config = ServerConfig(model=self.model, **options)
        with running_server(config, engine=fake_engine(FakeForward())) as port:
            yield port

    @property
    def tls(self) -> dict[str, Any]:
        own = self.authority.server()
        return {"tls_certificate": own.certificate, "tls_key": own.key}


@pytest.fixture
def world(tiny_llm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    async def who(self: Any, request: Any, context: grpc.aio.ServicerContext) -> pb.ModelInfoResponse:
        client = client_of(context)
        return pb.ModelInfoResponse(model=client.name, architecture=client.account)

    monkeypatch.setattr(SyneraServicer, "ModelInfo", who)
    made = World(tiny_llm, TestAuthority.make(tmp_path / "ours"), tmp_path / "tokens")
    made.add_token("phone")
    made.add_token("tablet")
    return made


def who_asks(channel: grpc.Channel, **options: Any) -> tuple[str, str] | Refusal:
    got = answer(synera_pb2_grpc.SyneraStub(channel).ModelInfo, pb.ModelInfoRequest(), **options)
    return got if isinstance(got, Refusal) else (got.model, got.architecture)


def every_method(channel: grpc.Channel, model: Path) -> list[tuple[Callable[..., Any], Any]]:
    stub = synera_pb2_grpc.SyneraStub(channel)
    return [
        (stub.ModelInfo, pb.ModelInfoRequest()),
        (stub.Open, pb.OpenRequest(tokenizer_hash=tokenizer_hash(model))),
        (stub.Verify, pb.VerifyRequest(session_id="0" * 32, seq=1, context=[1])),
        (stub.Close, pb.CloseRequest(session_id="0" * 32)),
        (stub.Generate, pb.GenerateRequest(prompt=[1], max_new_tokens=1)),
        (stub.Forward, pb.ForwardRequest(session_id="0" * 32, seq=1)),
    ]


# ---------------------------------------------------------------- nobody is asked who they are


def test_an_anonymous_client_is_its_address_and_pays_as_its_connection(world: World) -> None:
    with world.served() as port:
        seen = []
        for _ in range(2):
            with channel_to(port, ("grpc.use_local_subchannel_pool", 1)) as channel:
                seen.append(who_asks(channel, **bearer("whatever")))
                assert who_asks(channel) == seen[-1]
    names, accounts = zip(*seen, strict=True)  # type: ignore[misc]
    assert set(names) == {"ipv4:127.0.0.1"}
    assert len(set(accounts)) == 2
    assert all(each.startswith("ipv4:127.0.0.1:") for each in accounts)


# ---------------------------------------------------------------- tokens


def test_a_token_says_who_asks(world: World) -> None:
    with world.served(tokens=world.tokens) as port, channel_to(port) as channel:
        for name, token in world.token_of.items():
            assert who_asks(channel, **bearer(token)) == (name, name)
            assert who_asks(channel, metadata=((TOKEN_KEY, f"bearer  {token} "),)) == (name, name)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ((), "has no token"),
        (((TOKEN_KEY, ""),), "has no token"),
        (((TOKEN_KEY, "Bearer"),), "has no token"),
        (((TOKEN_KEY, "Bearer "),), "has no token"),
        (((TOKEN_KEY, "Basic cGhvbmU6"),), "has no token"),
        (((TOKEN_KEY, "{good}"),), "has no token"),
        (((TOKEN_KEY, "Bearer {good}"), (TOKEN_KEY, "Bearer {good}")), "has no token"),
        (((TOKEN_KEY, "Bearer {good}x"),), "does not know this token"),
        (((TOKEN_KEY, "Bearer wrong"),), "does not know this token"),
        (((TOKEN_KEY, "Bearer " + "x" * 2000),), "does not know this token"),
        ((("token", "Bearer {good}"),), "has no token"),
    ],
)
def test_without_a_valid_token_no_method_answers(world: World, metadata: Any, says: str) -> None:
    sent = tuple((key, value.replace("{good}", world.token_of["phone"])) for key, value in metadata)
    with world.served(tokens=world.tokens) as port, channel_to(port) as channel:
        for call, request in every_method(channel, world.model):
            got = refused(call, request, metadata=sent)
            assert (got.code, got.kind) == UNKNOWN
            assert says in got.details
        assert who_asks(channel, **bearer(world.token_of["phone"])) == ("phone", "phone")


def test_probes_need_no_token_and_reflection_does(world: World) -> None:
    with world.served(tokens=world.tokens) as port, channel_to(port) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)

        def listed(**options: Any) -> list[Any]:
            asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            return list(stub.ServerReflectionInfo(asked, timeout=10, **options))

        assert listed(**bearer(world.token_of["phone"]))
        with pytest.raises(grpc.RpcError) as caught:
            listed()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]


def test_a_refused_call_s_message_is_not_read(world: World) -> None:
    with world.served(tokens=world.tokens) as port, channel_to(port) as channel:
        call = channel.unary_unary("/synera.v1.Synera/Verify")
        assert refused(call, b"\xff" * 10_000_000).code is grpc.StatusCode.UNAUTHENTICATED


def test_the_client_tells_it_as_what_it_is(world: World) -> None:
    with (
        world.served(tokens=world.tokens) as port,
        CloudClient(f"127.0.0.1:{port}") as client,
        pytest.raises(UnauthenticatedError, match="has no token; give one"),
    ):
        client.model_info()


def test_a_token_reaches_no_log(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    mistaken = new_token()
    with world.served(tokens=world.tokens) as port, channel_to(port) as channel:
        for call, request in every_method(channel, world.model):
            answer(call, request, **bearer(world.token_of["phone"]))
            answer(call, request, **bearer(mistaken))
    said = "\n".join(f"{each.getMessage()} {each.__dict__}" for each in caplog.records)
    assert "peer refused" in said
    assert world.token_of["phone"] not in said
    assert mistaken not in said


def test_tokens_come_and_go_without_a_restart(world: World) -> None:
    with world.served(tokens=world.tokens) as port, channel_to(port) as channel:
        old = world.token_of["phone"]
        new = world.add_token("phone")
        poll(lambda: who_asks(channel, **bearer(new)) == ("phone", "phone"))
        gone = who_asks(channel, **bearer(old))
        assert isinstance(gone, Refusal)
        assert (gone.code, gone.kind) == UNKNOWN


# ---------------------------------------------------------------- certificates


def test_a_certificate_says_who_asks(world: World) -> None:
    with world.served(**world.tls, tls_ca=world.authority.file) as port:
        for name in ("phone", "Jörgs Telefon", "urn:device:7", "x" * 64):
            with secure_channel_to(port, world.authority.file, world.authority.client(name)) as channel:
                assert who_asks(channel) == (name, name)
                assert (
                    len(list(synera_pb2_grpc.SyneraStub(channel).Generate(pb.GenerateRequest(prompt=[1], max_new_tokens=1))))
                    == 1
                )


def wrong_certificates(world: World, folder: Path) -> dict[str, Files | None]:
    other = TestAuthority.make(folder / "theirs")
    old = datetime.now(UTC) - timedelta(days=9)
    return {
        "none": None,
        "another authority's": other.client(),
        "an authority's of the same name": TestAuthority.make(folder / "same", "authority").client(),
        "expired": world.authority.client(begins=old),
        "not yet valid": world.authority.client(begins=datetime.now(UTC) + timedelta(days=1)),
        "a server's": world.authority.server("own"),
    }


def test_without_a_valid_certificate_there_is_no_connection(world: World, tmp_path: Path) -> None:
    with world.served(**world.tls, tls_ca=world.authority.file) as port:
        for what, files in wrong_certificates(world, tmp_path).items():
            with secure_channel_to(port, world.authority.file, files) as channel:
                got = who_asks(channel)
                assert isinstance(got, Refusal), what
                assert (got.code, got.kind) == (grpc.StatusCode.UNAVAILABLE, None), what
        with channel_to(port) as plain:
            assert isinstance(who_asks(plain), Refusal)
        with secure_channel_to(port, world.authority.file, world.authority.client()) as channel:
            assert who_asks(channel) == ("phone", "phone")


@pytest.mark.parametrize("name", ["", " ", "a\nb", "\x1b[31m"])
def test_a_certificate_that_names_nobody_is_refused(world: World, name: str) -> None:
    own = world.authority.client(name) if name else unnamed(world.authority)
    with (
        world.served(**world.tls, tls_ca=world.authority.file) as port,
        secure_channel_to(port, world.authority.file, own) as channel,
    ):
        for call, request in every_method(channel, world.model):
            got = refused(call, request)
            assert (got.code, got.kind) == UNKNOWN
            assert "names nobody" in got.details


def test_a_certificate_without_a_common_name_is_known_by_its_alternative_one(world: World) -> None:
    own = unnamed(world.authority, x509.UniformResourceIdentifier("spiffe://example.org/phone"), x509.DNSName("phone.example"))
    with (
        world.served(**world.tls, tls_ca=world.authority.file) as port,
        secure_channel_to(port, world.authority.file, own) as channel,
    ):
        assert who_asks(channel) == ("spiffe://example.org/phone",) * 2


def unnamed(authority: TestAuthority, *others: x509.GeneralName) -> Files:
    """A client's without a common name."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = x509.CertificateBuilder(authority.authority.certificate.subject, x509.Name([]), key.public_key(), 7)
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    if others:
        builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=True)
    signed = builder.sign(authority.authority.key, hashes.SHA256())
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    return written(authority.folder / "unnamed", Pair(signed.public_bytes(pem), key.private_bytes(pem, *form)))


# ---------------------------------------------------------------- both


def test_with_both_each_is_needed_and_they_name_the_same(world: World) -> None:
    with ExitStack() as stack:
        port = stack.enter_context(world.served(**world.tls, tls_ca=world.authority.file, tokens=world.tokens))
        phone, nobody = (
            stack.enter_context(secure_channel_to(port, world.authority.file, own))
            for own in (world.authority.client("phone"), None)
        )
        assert who_asks(phone, **bearer(world.token_of["phone"])) == ("phone", "phone")
        stolen = bearer(world.token_of["tablet"])
        for call, request in every_method(phone, world.model):
            got = refused(call, request, **stolen)
            assert (got.code, got.kind) == UNKNOWN
            assert "not of the same client" in got.details
            assert (refused(call, request).code, refused(call, request).kind) == UNKNOWN
        got = who_asks(nobody, **bearer(world.token_of["phone"]))
        assert isinstance(got, Refusal)
        assert got.code is grpc.StatusCode.UNAVAILABLE
        health = health_pb2_grpc.HealthStub(phone)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == health_pb2.HealthCheckResponse.SERVING


# ---------------------------------------------------------------- reflection


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"host": "0.0.0.0", "allow_plaintext": True}, False),
        ({"host": "0.0.0.0", "allow_plaintext": True, "reflection": True}, True),
    ],
)
def test_methods_are_told_on_this_machine_or_where_it_is_asked_for(world: World, options: dict[str, Any], told: bool) -> None:
    with world.served(**options) as port, channel_to(port) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        if told:
            assert list(stub.ServerReflectionInfo(asked, timeout=10))
        else:
            with pytest.raises(grpc.RpcError) as caught:
                list(stub.ServerReflectionInfo(asked, timeout=10))
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
        assert not isinstance(who_asks(channel), Refusal)
