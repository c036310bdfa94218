"""A server on the test's own event loop, whose clock stands still, beside peers that take more than their share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from cloud.config import ServerConfig
from cloud.server import CloudServer
from runtime.model.tokenizer import tokenizer_hash
from runtime.wire import synera_pb2 as pb
from runtime.wire import synera_pb2_grpc
from tests.support.engine import FakeForward, choice, continuation, fake_engine

PROMPT = [1, 2, 3]
CONTEXT = 4000


class World:
    """A server on this event loop, whose clock stands still unless a test moves it, and devices of it."""

    def __init__(self, folder: Path, context_tokens: int = CONTEXT, **options: Any) -> None:
        self.seconds = 0.0
        """What the clock says; leases and limits run on it."""
        self.hashed = tokenizer_hash(folder)
        self.engine, self.forward = self._made(context_tokens)
        config = ServerConfig(model=folder, grace_seconds=0, **options)
        self.server = CloudServer(config, engine=self.engine, now=lambda: self.seconds)
        self.admission, self.table = self.server._admission, self.server._table
        self.port = 0
        self._channels: list[grpc.aio.Channel] = []

    def _made(self, context_tokens: int) -> tuple[Any, FakeForward]:
        forward = FakeForward()
        return fake_engine(forward, context_tokens=context_tokens), forward

    def device(self) -> synera_pb2_grpc.SyneraAsyncStub:
        """One with a connection, and so an account, of its own."""
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        self._channels.append(grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=options))
        return synera_pb2_grpc.SyneraStub(self._channels[-1])  # type: ignore[no-any-return,call-arg,arg-type]

    def opening(self) -> pb.OpenRequest:
        return pb.OpenRequest(tokenizer_hash=self.hashed)

    async def session(self, device: Any) -> str:
        """Of a device, whose connection may have to wait until others have gone."""
        return (await device.Open(self.opening(), timeout=30, wait_for_ready=True)).session_id

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        for each in self._channels:
            await each.close()

    async def held_up(self) -> tuple[Any, asyncio.Future[Any]]:
        """An honest device whose check is in a forward that does not end before the gate opens; and its verdict."""
        device = self.device()
        session_id = await self.session(device)
        self.forward.gate.clear()
        self.forward.entered.clear()
        asked = device.Verify(pb.VerifyRequest(session_id=session_id, seq=1, context=PROMPT), timeout=30)
        verdict = asyncio.ensure_future(_awaited(asked))
        assert await asyncio.to_thread(self.forward.entered.wait, 30)
        return device, verdict

    async def is_well(self) -> None:
        """A newcomer is served, and at once: behind no more than one forward."""
        device = self.device()
        session_id, ran = await self.session(device), len(self.forward.batches)
        got = await device.Verify(pb.VerifyRequest(session_id=session_id, seq=1, context=PROMPT), timeout=30)
        assert got.next_token == choice(PROMPT)
        assert self.forward.batches[ran:] == [[3]]
        tokens = [each.token async for each in device.Generate(pb.GenerateRequest(prompt=PROMPT, max_new_tokens=3))]
        assert tokens == continuation(PROMPT, 3)
        await device.Close(pb.CloseRequest(session_id=session_id), timeout=30)


AnyWorld = TypeVar("AnyWorld", bound=World)


async def _awaited(call: Any) -> Any:
    return await call


async def refusal(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


def run(
    folder: Path,
    body: Callable[[AnyWorld], Awaitable[None]],
    *,
    context_tokens: int = CONTEXT,
    world_of: type[AnyWorld] = World,  # type: ignore[assignment]
    **options: Any,
) -> None:
    """Serve while `body` runs; afterwards nothing is left of it."""

    async def live() -> None:
        world = world_of(folder, context_tokens, **options)
        forward = world.forward
        world.port = await world.server.start()
        try:
            await body(world)
            forward.gate.set()
            await world.is_well()
            await world.until(lambda: not world.admission.held)
            if world.admission.limits.account_tokens_per_second is None:  # else debts are remembered
                assert len(world.admission) == 0
        finally:
            forward.gate.set()
            await world.close()
            await world.server.stop()
        assert world.engine.usage.used_blocks == world.engine.usage.waiting == 0
        world.engine.check_integrity()

    asyncio.run(asyncio.wait_for(live(), 60))
