from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from cloud.service import STATUS, SyneraServicer
from runtime import errors
from runtime.client import CloudClient
from runtime.errors import CloudError, CloudUnavailableError, SyneraError
from runtime.wire import synera_pb2 as pb
from runtime.wire import synera_pb2_grpc


class Failing:
    """A verification and a generation that raise one error, whatever they are asked."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def open(self, tokenizer_hash: str) -> str:
        raise self._error

    async def verify(self, request: object) -> object:
        raise self._error

    async def generate(self, prompt: object, max_new_tokens: int) -> AsyncIterator[object]:
        raise self._error
        yield


def ask(error: Exception, call: Callable[[CloudClient], Any]) -> Any:
    async def live() -> Any:
        server = grpc.aio.server()
        failing: Any = Failing(error)
        servicer = SyneraServicer(failing, failing, lease_seconds=1.0, paced=False)
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
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kind", STATUS)
def test_every_error_arrives_as_itself_with_its_message(kind: type[Exception], name: str) -> None:
    with pytest.raises(SyneraError) as caught:
        ask(kind("why, and the way out: ä"), CALLS[name])
    assert type(caught.value) is kind
    assert str(caught.value) == "why, and the way out: ä"


def test_every_cloud_error_has_a_status() -> None:
    named = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, CloudError)}
    assert named <= set(STATUS)
    assert len(set(STATUS.values())) == len(STATUS)


def test_a_subclass_travels_as_the_nearest_class_that_has_a_status() -> None:
    class Special(CloudUnavailableError):
        pass

    with pytest.raises(CloudUnavailableError, match="special"):
        ask(Special("special"), CALLS["open"])


@pytest.mark.parametrize("name", CALLS)
def test_a_bug_in_the_cloud_is_a_cloud_error_that_points_to_its_log(name: str) -> None:
    with pytest.raises(CloudError, match=r"UNKNOWN.*its log says more") as caught:
        ask(KeyError("bug"), CALLS[name])
    assert type(caught.value) is CloudError
