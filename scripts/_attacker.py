"""What every attack on a verifier works with: its bounds, its connections, and how its messages ended.

What does not live here: what the attacks do (_attacks.py), and their process (_hostile.py).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from runtime.answers import ModelInfo
from runtime.settings import whole, within
from runtime.wire import ERROR_KIND_KEY, synera_pb2_grpc
from runtime.wire import synera_pb2 as pb
from runtime.wire.address import Address
from scripts._load_answers import FIRST_TOKEN

MOST_CONNECTIONS, MOST_ROUNDS, LONGEST_SECONDS = 4096, 20_000, 4000.0
BY_ITSELF = "by gRPC itself"
"""Ends the name of a status that no error of the verifier came with."""
CANCELLED = "cancelled by the attacker"
"""Likewise, of what this side no longer waits for."""
CUT_SHORT = "ended while it was sent"
"""Likewise, of a stream that the verifier ended: grpcio then forgets the status."""
_CORE = "Internal error from Core"
ANSWER_SECONDS = 20.0
"""How long an answer is waited for."""


@dataclass(frozen=True)
class Force:
    """How hard an attack is at most.

    Raises:
        SettingError: a setting is outside its range.
    """

    connections: int
    """At a time, 1..4096."""
    rounds: int = MOST_ROUNDS
    """Of each connection, 1..20000."""
    seconds: float = LONGEST_SECONDS
    """Nothing new is begun later, 0.01..4000."""

    def __post_init__(self) -> None:
        whole("connections", self.connections, 1, MOST_CONNECTIONS)
        whole("rounds", self.rounds, 1, MOST_ROUNDS)
        within("seconds", self.seconds, 0.01, LONGEST_SECONDS)


@dataclass
class Attack:
    """One attack on a verifier; all its connections are on one event loop."""

    address: Address
    info: ModelInfo
    force: Force
    seed: int = 0
    sent: int = 0
    """Messages; of `connections` the connections."""
    ended: Counter[str] = field(default_factory=Counter)
    """How they ended: OK, a status with the verifier's name of the error, or what else happened."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set by who has seen enough."""
    _until: float = 0.0

    async def run(self, act: Act) -> None:
        """Attack until the time or the rounds are over; what is under way then ends within some seconds."""
        self._until = time.monotonic() + self.force.seconds
        await asyncio.gather(*(act(self, number) for number in range(self.force.connections)))

    def rounds(self) -> Iterator[int]:
        """Count the rounds of a connection."""
        for number in range(self.force.rounds):
            if self.over.is_set() or time.monotonic() >= self._until:
                return
            yield number

    async def rest(self, seconds: float = LONGEST_SECONDS) -> None:
        """Do nothing, at most until the end."""
        try:
            async with asyncio.timeout(max(0.0, min(seconds, self._until - time.monotonic()))):
                await self.over.wait()
        except TimeoutError:
            pass

    @asynccontextmanager
    async def connected(self, *options: tuple[str, Any]) -> AsyncIterator[grpc.aio.Channel]:
        """A connection of its own."""
        own = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0), *options]
        async with grpc.aio.insecure_channel(self.address.uri, options=own) as channel:
            yield channel

    async def ask(self, call: Awaitable[Any]) -> Any:
        """Await the answer of a call that was made, and write down how it ended; None where it failed."""
        self.sent += 1
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            self.ended[_status(error)] += 1
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                await self.rest(0.05)  # nobody is there, and asking at once would only burn this machine's time
            return None
        except TimeoutError:
            self.ended["no end in time"] += 1
            return None
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            self.ended[CANCELLED] += 1  # the call alone
            return None
        self.ended["OK"] += 1
        return answer

    async def open(self, stub: Any) -> str:
        """Open a session; its id is empty where that failed."""
        request = pb.OpenRequest(tokenizer_hash=self.info.tokenizer_hash)
        answer = await self.ask(stub.Open(request, timeout=ANSWER_SECONDS))
        return "" if answer is None else answer.session_id

    async def close(self, stub: Any, session_id: str) -> None:
        """End a session."""
        await self.ask(stub.Close(pb.CloseRequest(session_id=session_id), timeout=ANSWER_SECONDS))

    def tokens(self, rng: np.random.Generator, count: int) -> list[int]:
        """Draw tokens that the model has; as random ones share no beginning, nothing of them is in its cache."""
        return rng.integers(min(FIRST_TOKEN, self.info.vocab - 1), self.info.vocab, max(1, count)).tolist()  # type: ignore[no-any-return]

    def rng(self, number: int) -> np.random.Generator:
        """The random numbers of a connection."""
        return np.random.default_rng([self.seed, number])


async def read(stream: Any) -> int:
    """Read what is there of an answer, to its end; how much that was."""
    return len([each async for each in stream])


def _status(error: grpc.aio.AioRpcError) -> str:
    if error.code() is grpc.StatusCode.INTERNAL and (error.details() or "").startswith(_CORE):
        return CUT_SHORT
    metadata: Any = error.trailing_metadata() or ()
    kind = dict(metadata).get(ERROR_KIND_KEY)
    if error.code() is grpc.StatusCode.CANCELLED and not kind:
        return CANCELLED
    return f"{error.code().name} {kind}" if kind else f"{error.code().name} {BY_ITSELF}"


def stub_of(channel: grpc.aio.Channel) -> Any:
    return synera_pb2_grpc.SyneraStub(channel)  # type: ignore[no-untyped-call,unused-ignore]


Act = Callable[[Attack, int], Coroutine[Any, Any, None]]
"""What is done over one connection, whose number is given."""
