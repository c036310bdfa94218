from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runtime.client import CloudClient
from runtime.errors import CloudError, CloudUnavailableError, TokenizerMismatchError
from runtime.leftovers import MOST, Leftovers
from runtime.wire import synera_pb2 as pb
from tests.support.verifying import World, try_all


class Answers:
    """A client whose Close ends as the test says, when it says so."""

    def __init__(self) -> None:
        self.requests: list[pb.CloseRequest] = []
        self.ends: list[Callable[[Any], None]] = []
        self.deadlines = CloudClient("127.0.0.1:1").deadlines

    def ask(self, method: str, request: Any, seconds: float, on_end: Callable[[Any], None]) -> None:
        assert (method, seconds) == ("Close", self.deadlines.close_seconds)
        self.requests.append(request)
        self.ends.append(on_end)

    def end(self, error: Exception | None = None) -> None:
        ends, self.ends = self.ends, []
        for on_end in ends:
            on_end(Ended(error))


class Ended:
    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def answer(self) -> None:
        if self._error is not None:
            raise self._error


@pytest.mark.parametrize(
    ("error", "left"),
    [(None, 0), (CloudError("a bug"), 0), (TokenizerMismatchError("other"), 0), (CloudUnavailableError("gone"), 2)],
)
def test_what_the_cloud_does_not_hear_of_is_kept(error: Exception | None, left: int) -> None:
    leftovers, client = Leftovers(), Answers()
    leftovers.add(session_id="1")
    leftovers.add(key="2")
    leftovers.release(client)  # type: ignore[arg-type]
    leftovers.release(client)  # type: ignore[arg-type]
    assert client.requests == [pb.CloseRequest(session_id="1"), pb.CloseRequest(key="2")], "each once at a time"
    assert len(leftovers) == 2
    client.end(error)
    leftovers.settle(30)
    assert len(leftovers) == left
    leftovers.release(client)  # type: ignore[arg-type]
    assert len(client.requests) == 2 + left


def test_only_so_many_are_kept() -> None:
    leftovers = Leftovers()
    for number in range(2 * MOST):
        leftovers.add(session_id=str(number))
    assert len(leftovers) == MOST


def test_a_closed_client_keeps_them_and_is_not_waited_for(world: World) -> None:
    leftovers = Leftovers()
    with CloudClient(world.client.target) as client:
        session_id = client.open(world.tokenizer_hash).session_id
    leftovers.add(session_id=session_id)
    leftovers.release(client)
    leftovers.settle(30)
    assert len(leftovers) == 1
    leftovers.release(world.client)
    leftovers.settle(30)
    assert len(leftovers) == 0
    assert not list(try_all(world))


def test_a_cloud_that_does_not_answer_is_waited_for_no_longer_than_that() -> None:
    leftovers, client = Leftovers(), Answers()
    leftovers.add(session_id="1")
    leftovers.release(client)  # type: ignore[arg-type]
    leftovers.settle(0.01)
    assert len(leftovers) == 1
