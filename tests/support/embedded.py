"""The embedded engine under test, over a fake forward, for the length of one coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cloud.engine.base import Check, Checked
from cloud.engine.embedded.batched import BatchedEngine
from cloud.engine.embedded.engine import EmbeddedEngine
from runtime.errors import CloudUnavailableError
from tests.support.engine import FakeForward, fake_engine

Body = Callable[[EmbeddedEngine, FakeForward], Awaitable[None]]


def run(body: Body, forward: FakeForward | None = None, **options: Any) -> None:
    """Serve while `body` runs; nothing may go wrong unseen in a callback of the event loop."""
    run_engine(body, forward or FakeForward(), fake_engine, **options)


def run_engine(
    body: Callable[[Any, Any], Awaitable[None]], forward: Any, made: Callable[..., BatchedEngine[Any, Any, Any]], **options: Any
) -> None:
    """The same of any embedded engine, made over a fake forward with a `gate`; afterwards nothing is held."""

    async def live() -> None:
        unseen: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))
        engine = made(forward, **options)
        await engine.start()
        try:
            await body(engine, forward)
        finally:
            forward.gate.set()
            await engine.stop()
        engine.check_integrity()
        assert engine.usage.used_blocks == 0
        assert not unseen

    asyncio.run(asyncio.wait_for(live(), 60))


async def entered(forward: FakeForward) -> None:
    """Wait until a forward is in hand."""
    assert await asyncio.to_thread(forward.entered.wait, 30)


async def held_back(engine: EmbeddedEngine, forward: FakeForward) -> asyncio.Task[Checked]:
    """Occupy the engine with a check of a session of its own until the gate opens."""
    forward.gate.clear()
    forward.entered.clear()
    await engine.open("held")
    task = asyncio.create_task(engine.check("held", Check(0, [1], [])))
    await entered(forward)
    return task


async def used_blocks(engine: EmbeddedEngine) -> int:
    """Blocks that are held once all is free that was given up before."""
    await engine.freed()
    return engine.usage.used_blocks


async def tokens(engine: EmbeddedEngine, prompt: Sequence[int], count: int) -> list[int]:
    return [each.token async for each in engine.stream(prompt, count)]


async def failure(call: Awaitable[object]) -> CloudUnavailableError:
    """Why a call finds the engine unavailable, without the frames it was raised in."""
    try:
        await call
    except CloudUnavailableError as error:
        return error.with_traceback(None)
    raise AssertionError("it is available")
