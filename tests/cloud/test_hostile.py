"""Messages of any content against a real servicer, beside an honest device that must notice nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.config import ServerConfig
from cloud.engine.embedded.kv_pool import blocks_for
from cloud.server import running_server
from cloud.service import LONGEST_DETAILS
from runtime.model.tokenizer import tokenizer_hash
from runtime.wire import synera_pb2 as pb
from runtime.wire import synera_pb2_grpc
from runtime.wire.statuses import STATUS
from tests.support.engine import VOCAB, FakeForward, continuation, fake_engine
from tests.support.raw import Honest, Refusal, answer, channel_to, poll

PROMPT = [1, 2, 3]
CONTEXT = 100
KINDS = {kind.__name__: status for kind, status in STATUS.items()}
MINE = "a session of the attacker's own"
NEXT = 3
"""Stands for the seq that is in order."""
U32 = st.integers(0, 2**32 - 1)
NUMBER = (
    st.just(0)
    | st.just(NEXT)
    | st.integers(0, 6)
    | st.sampled_from([CONTEXT - 1, CONTEXT, CONTEXT + 1, 2**31, 2**32 - 1])
    | U32
)
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=8) | st.lists(U32, max_size=30) | st.just([1] * (CONTEXT + 1))
ID = st.just(MINE) | st.text(st.sampled_from("0123456789abcdef"), min_size=32, max_size=32) | st.text(max_size=40)
FEW = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=8)
WRONG = st.just([VOCAB]) | st.just([1] * 17) | st.just([1] * (CONTEXT + 1))
SAMPLING = st.builds(
    pb.Sampling,
    temperature=st.sampled_from([0.0, 0.7, 1.0]) | st.floats(),
    top_p=st.sampled_from([0.0, 0.9, 1.0]) | st.floats(),
    top_k=st.sampled_from([0, 3]) | U32,
    seed=st.integers(0, 2**64 - 1),
)
PROPOSALS = st.builds(pb.Proposals, sizes=TOKENS, ids=TOKENS, weights=TOKENS)


@st.composite
def sampled_checks(draw: st.DrawFn) -> pb.VerifyRequest:
    """In order and with proposals that fit, but for what may be wrong with one field."""
    draft = draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=5))
    asked = draw(st.builds(pb.Sampling, temperature=st.just(0.7), top_p=st.just(0.9), seed=st.integers(0, 9)) | SAMPLING)
    others = [draw(st.lists(st.integers(0, VOCAB), max_size=3, unique=True).map(set)) - {token} for token in draft]
    request = pb.VerifyRequest(session_id=MINE, seq=NEXT, context=draw(FEW), draft=draft, sampling=asked)
    for token, more in zip(draft, others, strict=True):
        request.proposals.sizes.append(1 + len(more))
        request.proposals.ids.extend([token, *more])
        request.proposals.weights.extend([7] * len(more))
    if draw(st.booleans()):
        field = getattr(request.proposals, draw(st.sampled_from(["sizes", "ids", "weights"])))
        if draw(st.booleans()):
            field.append(draw(U32))
        elif field:
            field[draw(st.integers(0, len(field) - 1))] = draw(U32)
    return request


IN_ORDER = st.builds(
    pb.VerifyRequest,
    session_id=st.just(MINE),
    seq=st.just(NEXT),
    prefix_length=st.just(0) | st.integers(0, 9),
    context=FEW | WRONG,
    draft=FEW | WRONG,
)
MESSAGE = st.one_of(
    st.builds(
        pb.VerifyRequest,
        session_id=ID,
        seq=NUMBER,
        prefix_length=NUMBER,
        context=TOKENS,
        draft=TOKENS,
        sampling=st.none() | SAMPLING,
        proposals=st.none() | PROPOSALS,
    ),
    st.builds(pb.GenerateRequest, prompt=TOKENS, max_new_tokens=NUMBER, sampling=st.none() | SAMPLING),
    st.builds(pb.OpenRequest, tokenizer_hash=st.text(max_size=40) | st.just(MINE)),
    st.builds(pb.CloseRequest, session_id=ID),
)


class World:
    """A served fake LLM, an honest device in the middle of its answer, and an attacker with a session and the right hash."""

    def __init__(self, channel: grpc.Channel, tokenizer_hash: str) -> None:
        self.channel, self.tokenizer_hash = channel, tokenizer_hash
        self.stub = stub = synera_pb2_grpc.SyneraStub(channel)
        self.calls = {
            pb.VerifyRequest: stub.Verify,
            pb.GenerateRequest: stub.Generate,
            pb.OpenRequest: stub.Open,
            pb.CloseRequest: stub.Close,
        }
        self.honest = Honest(stub, tokenizer_hash, PROMPT)
        self.mine, self.seq = self.open(), 0
        self.seen: set[str] = set()
        """Kinds of answers that came."""

    def open(self) -> str:
        return self.stub.Open(pb.OpenRequest(tokenizer_hash=self.tokenizer_hash)).session_id

    def send(self, message: Any) -> Any:
        if getattr(message, "session_id", None) == MINE:
            message.session_id = self.mine
            if isinstance(message, pb.VerifyRequest):
                message.seq = self.seq + 1 if message.seq == NEXT else message.seq
                self.seq += message.seq == self.seq + 1
        if getattr(message, "tokenizer_hash", None) == MINE:
            message.tokenizer_hash = self.tokenizer_hash
        return answer(self.calls[type(message)], message)

    def honest_step(self) -> None:
        if len(self.honest.tokens) > CONTEXT - 2:
            self.honest.close()
            self.honest = Honest(self.stub, self.tokenizer_hash, PROMPT)
        self.honest.step()
        assert self.honest.answer == continuation(PROMPT, len(self.honest.answer))


@pytest.fixture(scope="module")
def world(tiny_llm: Path) -> Iterator[World]:
    engine = fake_engine(FakeForward(), context_tokens=CONTEXT)
    config = ServerConfig(model=tiny_llm, max_sessions=3)
    with running_server(config, engine=engine) as port, channel_to(port) as channel:
        world = World(channel, tokenizer_hash(tiny_llm))
        yield world
        assert {*KINDS, "VerifyResponse", "OpenResponse", "a sampled answer"} - world.seen <= {
            "CloudUnavailableError",
            "CloudError",
            "CloudBusyError",
            "UnauthenticatedError",
        }
        poll(lambda: engine.usage.waiting == 0)
        assert engine.usage.used_blocks <= 2 * blocks_for(CONTEXT)  # the honest session's and the attacker's
    assert engine.usage.used_blocks == 0
    engine.check_integrity()


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(message=IN_ORDER | sampled_checks() | MESSAGE)
def test_any_message_gets_a_typed_status_or_a_valid_answer_and_harms_nobody(world: World, message: Any) -> None:
    got = world.send(message)
    world.seen.add(got.kind or "" if isinstance(got, Refusal) else type(got).__name__)
    if isinstance(got, Refusal):
        assert got.kind is not None, got
        assert got.code is KINDS[got.kind]
        assert got.kind not in ("CloudError", "CloudUnavailableError"), got  # nothing of it is the verifier's fault
        assert 0 < len(got.details) <= LONGEST_DETAILS
        assert got.details.isprintable()
    else:
        is_valid(world, message, got)
    world.honest_step()


def is_valid(world: World, message: Any, got: Any) -> None:
    """An answer that is one."""
    if isinstance(message, pb.VerifyRequest):
        assert got.accepted <= len(message.draft) <= 16
        assert max(*message.context, *message.draft, 0, 0) < VOCAB
        assert 1 <= message.prefix_length + len(message.context) <= CONTEXT - len(message.draft)
        assert got.next_token < VOCAB
        world.seen.add("a sampled answer" if message.HasField("sampling") else "")
        assert 1 <= got.processed_tokens <= CONTEXT
    elif isinstance(message, pb.GenerateRequest):
        assert max(message.prompt) < VOCAB
        assert message.HasField("sampling") or [each.token for each in got] == continuation(message.prompt, len(got))
        assert all(each.token < VOCAB for each in got)
        assert len(message.prompt) + len(got) <= CONTEXT
    elif isinstance(message, pb.OpenRequest):
        assert len(got.session_id) == 32
        world.stub.Close(pb.CloseRequest(session_id=got.session_id))
    elif message.session_id == world.mine:
        world.mine, world.seq = world.open(), 0


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=st.sampled_from(["Verify", "Generate", "Open", "Close", "ModelInfo"]), data=st.binary(max_size=200))
def test_any_bytes_get_a_typed_status_or_are_a_message(world: World, method: str, data: bytes) -> None:
    path = f"/synera.v1.Synera/{method}"
    raw = world.channel.unary_stream(path) if method == "Generate" else world.channel.unary_unary(path)
    got = answer(raw, data)
    if isinstance(got, Refusal):
        assert got.kind in KINDS, got
        assert got.code is KINDS[got.kind]
    else:
        getattr(pb, f"{method}Request").FromString(data)
    world.honest_step()
