"""What stands behind an address instead of an honest verifier: before there is a connection, mid-answer, and in a stream."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health, health_pb2_grpc

from runtime.client import CloudClient, Deadlines
from runtime.device import Connection, Device
from runtime.errors import BadAnswerError, CloudError, SyneraError
from runtime.wire import synera_pb2 as pb
from tests.support.gate import Served, gate, reset, says
from tests.support.hostile import (
    CODES,
    COMPRESSED,
    DETAILS,
    LATE,
    NAMES,
    NONE,
    NONSENSE,
    SAYS_OF_CODE,
    TOO_LONG,
    UNREADABLE,
    UNREADABLES,
    Answer,
    Asked,
    but,
    fails,
    hangs,
    hostile,
    info_of,
    raw,
    until_call,
)
from tests.support.process import ALWAYS
from tests.support.surviving import BRIEF, PATIENT, PROMPT, finish, is_marked, met

pytestmark = pytest.mark.usefixtures("nothing_else_happens")

# ---------------------------------------------------------------- what stands behind the address

GOAWAY = (
    b"\0\0\x12\x04\0\0\0\0\0" + b"\0\x03\0\0\0\x64\0\x04\0\0\xff\xff\0\x05\0\0\x40\0" + b"\0\0\x08\x07\0\0\0\0\0" + b"\0" * 8
)
BROKEN = f"{NONE}|the verifier at .* failed"
"""gRPC's word for it depends on how much was heard when."""
TAKEOVERS: dict[str, tuple[Served, str]] = {
    "closes": (lambda connection: None, BROKEN),
    "resets": (reset, BROKEN),
    "talks garbage": (says(b"\xde\xad\xbe\xef" * 1000), BROKEN),
    "talks HTTP/1.1": (says(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n"), BROKEN),
    "talks TLS": (says(b"\x15\x03\x03\0\x02\x02\x28"), BROKEN),
    "goes away at once": (says(GOAWAY, stays=True), f"{BROKEN}|{LATE}"),
    "is silent": (says(b"", stays=True), LATE),
}


@pytest.mark.parametrize("name", TAKEOVERS)
def test_an_address_that_another_takes_over_mid_answer(name: str, device: Device) -> None:
    takeover, why = TAKEOVERS[name]
    deadlines = Deadlines(open_seconds=20, verify_seconds=0.5 if LATE in why else 20)
    with ExitStack() as stack:
        server = stack.enter_context(hostile(info_of(device), {}))
        port = stack.enter_context(gate(server.target))
        connection = stack.enter_context(met(device, port.target, deadlines))
        session = stack.enter_context(connection.open())
        session.begin(PROMPT, ALWAYS)
        assert session.advance(ALWAYS).record.error is None
        port.instead = takeover
        port.cut()
        while not session.advance(ALWAYS).done:
            pass
    assert len(session.answer) == device.max_new_tokens
    assert [is_marked(record, why) for record in session.records[1:]] == [True] * (len(session.records) - 1)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("always", [False, True])
def test_a_connection_that_is_cut_mid_call_is_made_again(always: bool, hard: bool, device: Device) -> None:
    """A check is safe to repeat, so the answer does not suffer; where each repeat is cut, too, it is lost."""

    def cuts(asked: Asked) -> None:
        port.cut(hard=hard)
        asked.hang()

    with ExitStack() as stack:
        server = stack.enter_context(hostile(info_of(device), {"Verify": cuts if always else until_call(1, cuts)}))
        port = stack.enter_context(gate(server.target))
        connection = stack.enter_context(met(device, port.target))
        session = stack.enter_context(connection.open())
        finish(session)
    assert len(session.answer) == device.max_new_tokens
    assert [record.error is not None and is_marked(record, NONE) for record in session.records] == [always] * len(
        session.records
    )
    assert len(server.calls("Verify")) == (4 if always else 1 + len(session.records))


# ---------------------------------------------------------------- before there is a connection


INFOS: dict[str, tuple[Answer, str]] = {
    "no vocabulary": (but(vocab=0), NONSENSE),
    "a vocabulary of 2^32 - 1": (but(vocab=2**32 - 1), NONSENSE),
    "no context": (but(context_tokens=0), NONSENSE),
    "a context of 1": (but(context_tokens=1), NONSENSE),
    "no drafts": (but(max_draft_tokens=0), NONSENSE),
    "short drafts": (but(max_draft_tokens=7), "drafts of at most 7 tokens"),
    "an end outside the vocabulary": (but(eos_ids=[2, 2**32 - 1]), NONSENSE),
    "no fingerprint": (but(fingerprint=""), NONSENSE),
    "a fingerprint of 60 kB": (but(fingerprint="f" * 60_000), NONSENSE),
    "a fingerprint that acts on a terminal": (but(fingerprint="\x1b[2J"), NONSENSE),
    "another tokenizer": (but(tokenizer_hash="feed"), "shares the SLM's tokenizer"),
    "no tokenizer": (but(tokenizer_hash=""), NONSENSE),
    "a tokenizer of two lines": (but(tokenizer_hash="a\nb"), NONSENSE),
    "an empty message": (raw(b""), NONSENSE),
    **{name: (lie, UNREADABLE) for name, lie in UNREADABLES.items()},
    **{name: (long, "RESOURCE_EXHAUSTED") for name, long in TOO_LONG.items()},
    **{name: (small, f"gzip|{UNREADABLE}") for name, small in COMPRESSED.items()},
    **{name: (fails(StatusCode.INTERNAL, kind=name), "INTERNAL: why") for name in NAMES},
    **{code.name: (fails(code), SAYS_OF_CODE.get(code, code.name)) for code in CODES},
    **DETAILS,
    "hangs": (hangs, LATE),
}


def refusal(device: Device, target: str, deadlines: Deadlines = PATIENT) -> str:
    """The one line in which a connection is refused."""
    with CloudClient(target, deadlines=deadlines) as client, pytest.raises(SyneraError) as error:
        Connection(device, client)
    assert str(error.value).isprintable()
    assert len(str(error.value)) <= 400
    return str(error.value)


@pytest.mark.parametrize("name", INFOS)
def test_what_no_model_can_be_is_refused_in_one_line(name: str, device: Device) -> None:
    answer, why = INFOS[name]
    with hostile(info_of(device), {"ModelInfo": answer}) as server:
        assert re.search(why, refusal(device, server.target, BRIEF if name == "hangs" else PATIENT))


@pytest.mark.parametrize("name", TAKEOVERS)
def test_what_is_no_verifier_is_refused_in_one_line(name: str, device: Device) -> None:
    takeover, why = TAKEOVERS[name]
    with gate(instead=takeover) as port:
        said = refusal(device, port.target, Deadlines(info_seconds=1))
        assert re.search(f"{why}|{LATE}", said)


def test_a_server_of_something_else_is_refused_in_one_line(device: Device) -> None:
    with ThreadPoolExecutor(1) as pool:
        server = grpc.server(pool)
        health_pb2_grpc.add_HealthServicer_to_server(health.HealthServicer(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            assert "UNIMPLEMENTED: Method not found!); is it a verifier" in refusal(device, f"127.0.0.1:{port}")
        finally:
            server.stop(0).wait()


def test_names_of_a_model_are_cut_and_cleaned(device: Device) -> None:
    answer = but(model="\x1b[2J" + "m" * 10_000, engine="e\n", architecture="\u202e")
    with hostile(info_of(device), {"ModelInfo": answer}) as server, CloudClient(server.target) as client:
        said = client.model_info()
        Connection(device, client).close()
    assert (said.model[:6], len(said.model), said.engine, said.architecture) == ("?[2Jmm", 200, "e?", "?")


# ---------------------------------------------------------------- streams


def stream(*messages: Any, then: Callable[[Asked], None] = lambda asked: None) -> Any:
    def answer(asked: Asked) -> Iterator[Any]:
        yield from messages
        then(asked)

    return answer


TOKEN = pb.GenerateResponse(token=5, queue_ms=0.0, compute_ms=1.0)
STREAMS: dict[str, tuple[Any, str]] = {
    "token 2^32 - 1": (stream(TOKEN, pb.GenerateResponse(token=2**32 - 1, queue_ms=0, compute_ms=0)), NONSENSE),
    "a negative time": (stream(TOKEN, pb.GenerateResponse(token=1, queue_ms=-1, compute_ms=0)), NONSENSE),
    "no number for a time": (stream(TOKEN, pb.GenerateResponse(token=1, queue_ms=0, compute_ms=float("nan"))), NONSENSE),
    "an endless time": (stream(TOKEN, pb.GenerateResponse(token=1, queue_ms=float("inf"), compute_ms=0)), NONSENSE),
    "no times": (stream(TOKEN, pb.GenerateResponse(token=1)), NONSENSE),
    "garbage": (stream(TOKEN, b"\xff\xff"), UNREADABLE),
    "5 MB": (stream(TOKEN, b"x" * 5_000_000), "RESOURCE_EXHAUSTED"),
    "more than was asked for": (stream(*[TOKEN] * 100), "more than the 3 tokens"),
    "a wrong name": (stream(TOKEN, then=lambda asked: asked.abort(StatusCode.INTERNAL, kind="SystemExit")), "INTERNAL: why"),
    "hangs": (stream(TOKEN, then=lambda asked: asked.hang()), LATE),
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_believed_up_to_its_first_wrong_token(name: str, device: Device) -> None:
    answer, why = STREAMS[name]
    got: list[int] = []

    def listen() -> None:
        for each in client.generate(PROMPT, 3):
            got.append(each.token)

    with (
        hostile(info_of(device), {"Generate": answer}) as server,
        CloudClient(server.target, deadlines=BRIEF if name == "hangs" else PATIENT) as client,
        pytest.raises(CloudError, match=why) as error,
    ):
        listen()
    assert str(error.value).isprintable()
    assert len(str(error.value)) <= 400
    assert isinstance(error.value, BadAnswerError) == (why in (NONSENSE, UNREADABLE) or name.startswith("more"))
    assert got == [5] * (3 if name.startswith("more") else 1)


def test_calls_after_the_channel_s_end_are_unavailable(device: Device) -> None:
    with hostile(info_of(device), {}) as server, met(device, server.target) as connection:
        session = connection.open()
        session.begin(PROMPT, ALWAYS)
        assert session.advance(ALWAYS).record.error is None
        connection._replicas.order[0].client.close()
        while not (step := session.advance(ALWAYS)).done:
            assert is_marked(step.record, "the channel to .* was closed")
