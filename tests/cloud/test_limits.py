"""What the server keeps out before it takes memory or reaches a handler."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.model.tokenizer import tokenizer_hash
from runtime.wire import synera_pb2 as pb
from runtime.wire import synera_pb2_grpc
from runtime.wire.sizes import longest_request_bytes
from tests.support.engine import VOCAB, FakeForward, choice, fake_engine
from tests.support.raw import Honest, answer, channel_to, refused

CONTEXT = 4000
LONGEST = longest_request_bytes(CONTEXT, max_draft_tokens=16)
PROMPT = [1, 2, 3]


@dataclass
class Served:
    port: int
    forward: FakeForward
    tokenizer_hash: str


@pytest.fixture(scope="module")
def served(tiny_llm: Path) -> Iterator[Served]:
    forward = FakeForward()
    with running_server(ServerConfig(model=tiny_llm), engine=fake_engine(forward, context_tokens=CONTEXT)) as port:
        yield Served(port, forward, tokenizer_hash(tiny_llm))


@pytest.fixture
def stub(served: Served) -> Iterator[synera_pb2_grpc.SyneraStub]:
    """A peer of a server that is none the worse afterwards."""
    with channel_to(served.port) as channel:
        stub = synera_pb2_grpc.SyneraStub(channel)
        honest = Honest(stub, served.tokenizer_hash, PROMPT)
        before, first = len(served.forward.batches), honest.step()
        assert first == choice(PROMPT)
        yield stub
        assert honest.step() == choice([*PROMPT, first])
        assert served.forward.batches[before:] == [[3], [1]]
        honest.close()


def test_the_longest_request_that_can_be_served_is_let_in(served: Served) -> None:
    """Also when every id takes the five bytes of the largest, and with the longest draft."""
    with channel_to(served.port) as channel:
        stub = synera_pb2_grpc.SyneraStub(channel)
        session_id = stub.Open(pb.OpenRequest(tokenizer_hash=served.tokenizer_hash)).session_id
        request = pb.VerifyRequest(session_id=session_id, seq=1, context=[VOCAB - 1] * (CONTEXT - 16), draft=[1] * 16)
        assert stub.Verify(request).processed_tokens == CONTEXT
        request = pb.VerifyRequest(
            session_id=session_id, seq=2, prefix_length=2**32 - 1, context=[2**32 - 1] * CONTEXT, draft=[2**32 - 1] * 16
        )
        assert request.ByteSize() < LONGEST
        assert refused(stub.Verify, request).kind == "CloudRejectedError"
        request = pb.GenerateRequest(prompt=[1] * (CONTEXT - 1), max_new_tokens=5)
        assert len(list(stub.Generate(request))) == 1
        stub.Close(pb.CloseRequest(session_id=session_id))


@pytest.mark.parametrize("size", [LONGEST + 1, 4_000_000])
def test_a_longer_message_is_refused_by_grpc_itself(stub: synera_pb2_grpc.SyneraStub, size: int) -> None:
    text = "0" * size
    for call, request in (
        (stub.Verify, pb.VerifyRequest(session_id=text)),
        (stub.Open, pb.OpenRequest(tokenizer_hash=text)),
        (stub.Close, pb.CloseRequest(session_id=text)),
        (stub.Generate, pb.GenerateRequest(prompt=[1] * size)),
    ):
        got = refused(call, request)
        assert (got.code, got.kind) == (grpc.StatusCode.RESOURCE_EXHAUSTED, None)
        assert f"larger than max ({request.ByteSize()} vs. {LONGEST})" in got.details


@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("tokens", [1000, 3_000_000])
def test_no_compressed_message_is_taken(
    stub: synera_pb2_grpc.SyneraStub, tokens: int, compression: grpc.Compression, served: Served
) -> None:
    """Neither one that unpacks to little nor one of 3 KB that unpacks to 3 MB."""
    request = pb.GenerateRequest(prompt=[1] * tokens, max_new_tokens=1)
    got = refused(stub.Generate, request, compression=compression)
    assert (got.code, got.kind) == (grpc.StatusCode.UNIMPLEMENTED, None)
    assert "is disabled" in got.details


@pytest.mark.parametrize("size", [4100, 7000, 20_000])
def test_long_metadata_is_refused(stub: synera_pb2_grpc.SyneraStub, size: int) -> None:
    for _ in range(5):  # a refusal that is only likely would not do
        got = refused(stub.ModelInfo, pb.ModelInfoRequest(), metadata=(("key", "v" * size),))
        assert got.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "metadata size exceeds" in got.details
    assert answer(stub.ModelInfo, pb.ModelInfoRequest(), metadata=(("key", "v" * 2000),)).engine == "fake"


@pytest.mark.parametrize("text", ["x" * 20_000, "a\nb\x00\x1b[31m", "ä€😀" * 1500, "", "0" * 33, "../../etc/passwd"])
def test_whatever_text_is_sent_the_refusal_is_typed_and_short(stub: synera_pb2_grpc.SyneraStub, text: str) -> None:
    rejected = ("CloudRejectedError", grpc.StatusCode.INVALID_ARGUMENT)
    mismatch = ("TokenizerMismatchError", grpc.StatusCode.FAILED_PRECONDITION)
    for call, request, (kind, code) in (
        (stub.Verify, pb.VerifyRequest(session_id=text, seq=1, context=[1]), rejected),
        (stub.Close, pb.CloseRequest(session_id=text), rejected),
        (stub.Open, pb.OpenRequest(tokenizer_hash=text), mismatch),
    ):
        got = refused(call, request)
        assert (got.kind, got.code) == (kind, code)
        assert len(got.details) < 300
        assert got.details.isprintable()
        assert "as Open returns them" in got.details or "use models that share one" in got.details  # the way out is not cut


@pytest.mark.parametrize("data", [b"\xff\xff\x01garbage", b"\x0a\x02\xff\xfe", b"\x0a\x7fshort", b"\x22\x05\x80\x80"])
@pytest.mark.parametrize("method", ["Verify", "Open", "Close", "Generate", "ModelInfo"])
def test_what_is_no_message_is_rejected_as_such(served: Served, method: str, data: bytes) -> None:
    if method == "ModelInfo" and data[0] == 0x0A and data[1] != 0x7F:
        pytest.skip("a field that the message does not have is passed over")
    with channel_to(served.port) as channel:
        path = f"/synera.v1.Synera/{method}"
        call = channel.unary_stream(path) if method == "Generate" else channel.unary_unary(path)
        got = refused(call, data)
    assert (got.kind, got.code) == ("CloudRejectedError", grpc.StatusCode.INVALID_ARGUMENT)
    assert "the message cannot be read" in got.details
