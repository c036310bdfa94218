from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from cloud.admission import Admission, Limits
from cloud.forward import Forwarding
from cloud.generate import Generation
from cloud.identity import Client
from cloud.log import KeyValueFormatter
from cloud.monitor import Monitor
from cloud.openings import Openings
from cloud.service import LONGEST_DETAILS, Statuses, SyneraServicer
from cloud.sessions import SessionTable
from cloud.verify import Verification
from runtime import errors
from runtime.client import CloudClient
from runtime.errors import (
    BadAnswerError,
    CloudBusyError,
    CloudError,
    CloudRejectedError,
    CloudUnavailableError,
    GivenUpError,
    LateError,
    LimitsChangedError,
    LinkDownError,
    ModelChangedError,
    SyneraError,
    UnauthenticatedError,
)
from runtime.wire import synera_pb2 as pb
from runtime.wire import synera_pb2_grpc
from runtime.wire.statuses import STATUS
from tests.support.engine import FakeForward, fake_engine


class Failing:
    """Raises one error, whatever it is asked: as openings, a verification, a generation, a forwarding and sketches."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def open(self, tokenizer_hash: str, key: str, client: Client) -> str:
        raise self._error

    async def verify(self, request: object, client: Client) -> object:
        raise self._error

    async def generate(
        self, prompt: object, max_new_tokens: int, sampling: object, client: Client, log_probabilities: bool
    ) -> AsyncIterator[object]:
        raise self._error
        yield

    async def sketch(
        self, prompt: str, length: int, max_new_tokens: int, sampling: object, client: Client
    ) -> AsyncIterator[object]:
        raise self._error
        yield

    async def forward(self, requests: object, client: Client) -> AsyncIterator[object]:
        raise self._error
        yield


def ask(error: Exception, call: Callable[[CloudClient], Any]) -> Any:
    async def live() -> Any:
        server = grpc.aio.server(interceptors=(Statuses(),))
        failing: Any = Failing(error)
        servicer = SyneraServicer(
            failing, failing, failing, failing, failing, lease_seconds=1.0, reader_seconds=9.0, paced=False
        )
        synera_pb2_grpc.add_SyneraServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            with CloudClient(f"127.0.0.1:{port}") as client:
                return await asyncio.to_thread(call, client)
        finally:
            await server.stop(0)

    return asyncio.run(live())


CALLS = {
    "open": lambda client: client.open("hash"),
    "verify": lambda client: client.verify(pb.VerifyRequest()),
    "generate": lambda client: list(client.generate([1], 1)),
    "sketch": lambda client: list(client.sketch("a prompt", 1, 1)),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", STATUS)
def test_every_error_arrives_as_itself_with_its_message(kind: type[Exception], name: str) -> None:
    with pytest.raises(SyneraError) as caught:
        ask(kind("why, and the way out: ä"), CALLS[name])
    assert type(caught.value) is kind
    said = str(caught.value)
    assert "why, and the way out: ä" in said if kind is UnauthenticatedError else said == "why, and the way out: ä"


def test_every_cloud_error_but_the_devices_own_has_a_status() -> None:
    named = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, CloudError)}
    assert named - set(STATUS) == {
        *(BadAnswerError, GivenUpError, LateError, LimitsChangedError, LinkDownError, ModelChangedError)
    }
    assert len(set(STATUS.values())) == len(STATUS)


def test_a_subclass_travels_as_the_nearest_class_that_has_a_status() -> None:
    class Special(CloudUnavailableError):
        pass

    with pytest.raises(CloudUnavailableError, match="special"):
        ask(Special("special"), CALLS["open"])


@pytest.mark.parametrize("name", CALLS)
def test_a_bug_in_the_cloud_is_a_cloud_error_that_points_to_its_log(name: str) -> None:
    with pytest.raises(CloudError, match=r"INTERNAL: a bug in the verifier: KeyError.*its log says more") as caught:
        ask(KeyError("bug"), CALLS[name])
    assert type(caught.value) is CloudError


class Watched(list[int]):
    """Tokens that know whether something was made of them."""

    copies = 0

    def __iter__(self) -> Iterator[int]:
        self.copies += 1
        return super().__iter__()


def test_what_is_too_long_is_rejected_before_anything_is_made_of_it() -> None:
    tokens = Watched([1] * 5000)

    async def live() -> None:
        engine = fake_engine(FakeForward())
        table = SessionTable(engine.close, max_sessions=1, lease_seconds=60)
        admission = Admission(Limits(), context_tokens=100)
        openings = Openings(engine, table, "hash")
        verification = Verification(engine, table, admission, max_draft_tokens=4)
        asked_of = verification, Generation(engine, admission), Forwarding(engine, table, admission, Monitor())
        servicer = SyneraServicer(openings, *asked_of, None, lease_seconds=60, reader_seconds=9.0, paced=False)
        session_id = await openings.open("hash")
        context: Any = SimpleNamespace(peer=lambda: "", time_remaining=lambda: None, auth_context=dict)
        greedy: Any = {"HasField": lambda name: False, "proposals": pb.Proposals()}
        asked: Any = SimpleNamespace(session_id=session_id, seq=1, prefix_length=0, context=tokens, draft=[1], **greedy)
        with pytest.raises(CloudRejectedError, match="5000 tokens of history"):
            await servicer.Verify(asked, context)
        asked = SimpleNamespace(session_id=session_id, seq=2, prefix_length=0, context=[1], draft=tokens, **greedy)
        with pytest.raises(CloudRejectedError, match="a draft of 5000 tokens"):
            await servicer.Verify(asked, context)
        asked = SimpleNamespace(prompt=tokens, max_new_tokens=1, log_probabilities=False, **greedy)
        with pytest.raises(CloudRejectedError, match="a prompt of 5000"):
            await servicer.Generate(asked, context)

    asyncio.run(live())
    assert tokens.copies == 0


BUG = "planted\nin a handler \x1b[31m" + "x" * 20_000


@pytest.mark.parametrize("name", CALLS)
def test_a_bug_is_logged_with_its_trace_method_and_session(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(CloudError, match="INTERNAL: a bug in the verifier: ZeroDivisionError"):
        ask(ZeroDivisionError(BUG), CALLS[name])
    [record] = [each for each in caplog.records if each.name == "cloud.service"]
    line = KeyValueFormatter().format(record)
    assert line.isprintable()
    assert len(line) < 15_000
    assert re.search(rf'level=error .*event="handler failed" method={name.capitalize()} session=', line)
    assert re.search(r'trace="Traceback .*in (open|verify|generate|sketch)\\n.*ZeroDivisionError: planted', line)


@pytest.mark.parametrize("text", ["x" * 20_000, "a\nb\x00c\x1b[31m", "ä€😀" * 7000, "\ud800"])
@pytest.mark.parametrize("name", CALLS)
def test_a_status_is_one_line_of_bounded_size_whatever_it_tells(text: str, name: str) -> None:
    with pytest.raises(CloudRejectedError) as caught:
        ask(CloudRejectedError(text), CALLS[name])
    assert len(str(caught.value)) <= LONGEST_DETAILS
    assert str(caught.value).isprintable()
    assert str(caught.value)[0] == (text[0] if text[0].isprintable() else "?")


def test_a_full_table_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(CloudBusyError):
        ask(CloudBusyError("all 3 sessions are in use"), CALLS["open"])
    [line] = [KeyValueFormatter().format(each) for each in caplog.records if each.name == "cloud.service"]
    assert 'level=warning logger=cloud.service event="request refused" method=Open session="" reason="all 3 sessions' in line
