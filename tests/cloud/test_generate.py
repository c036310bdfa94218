from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

import pytest

from cloud.engine.base import Streamed
from cloud.engine.embedded.engine import EmbeddedEngine
from cloud.generate import Generation
from cloud.sessions import SessionTable
from runtime.errors import CloudBusyError, CloudError, CloudRejectedError
from runtime.sampling import Sampling
from tests.support.engine import VOCAB, FakeForward, choice, continuation, fake_engine

PROMPT = [1, 2, 3]


class World:
    """Streams over a fake forward."""

    def __init__(self, eos_ids: tuple[int, ...]) -> None:
        self.forward, self.seconds = FakeForward(), 0.0
        self.engine: EmbeddedEngine = fake_engine(self.forward, eos_ids=eos_ids)
        self.table = SessionTable(self.engine.close, max_sessions=4, lease_seconds=60, now=lambda: self.seconds)
        self.g = Generation(self.engine, self.table)

    async def all(self, prompt: list[int], count: int) -> list[int]:
        return [each.token async for each in self.g.generate(prompt, count)]


def run(body: Callable[[World], Awaitable[None]], eos_ids: tuple[int, ...] = ()) -> None:
    async def live() -> None:
        world = World(eos_ids)
        await world.engine.start()
        try:
            await body(world)
            assert len(world.table) == 0
        finally:
            world.forward.gate.set()
            await world.engine.stop()

    asyncio.run(asyncio.wait_for(live(), 60))


def test_generate_is_greedy_and_ends_at_count_context_and_eos() -> None:
    async def body(world: World) -> None:
        assert await world.all(PROMPT, 12) == continuation(PROMPT, 12)
        assert await world.all([1] * 95, 12) == continuation([1] * 95, 5)

    async def ends(world: World) -> None:
        assert await world.all(PROMPT, 12) == continuation(PROMPT, 3)

    run(body)
    run(ends, eos_ids=(continuation(PROMPT, 3)[-1],))


@pytest.mark.parametrize(("prompt", "count"), [([], 3), (PROMPT, 0), ([1] * 100, 3), ([VOCAB], 3)])
def test_generate_rejects_what_it_cannot_do(prompt: list[int], count: int) -> None:
    async def body(world: World) -> None:
        with pytest.raises(CloudRejectedError):
            await world.all(prompt, count)
        assert world.forward.batches == []

    run(body)


def test_a_closed_stream_stops_and_gives_its_place_back() -> None:
    async def body(world: World) -> None:
        async with aclosing(world.g.generate(PROMPT, 90)) as stream:
            assert (await anext(stream)).token == choice(PROMPT)
            assert len(world.table) == 1
        assert len(world.table) == 0
        assert await world.all([9] * 7, 1) == [choice([9] * 7)]  # behind it in the queue
        ran = len(world.forward.batches)
        await world.all([9] * 7, 1)
        assert world.forward.batches[ran:] == [[7]]

    run(body)


def test_a_closed_stream_is_closed_in_the_engine_at_once() -> None:
    async def body(world: World) -> None:
        plain, closed = world.engine.stream, []

        async def stream(
            prompt: Sequence[int], max_new_tokens: int, sampling: Sampling | None, account: str
        ) -> AsyncGenerator[Streamed, None]:
            try:
                async for token in plain(prompt, max_new_tokens, sampling, account):
                    yield token
            finally:
                closed.append(True)

        world.engine.stream = stream  # type: ignore[method-assign]
        async with aclosing(world.g.generate(PROMPT, 90)) as tokens:
            await anext(tokens)
        assert closed  # not only when the garbage is collected

    run(body)


def test_a_stream_does_not_expire() -> None:
    async def body(world: World) -> None:
        async with aclosing(world.g.generate(PROMPT, 3)) as stream:
            answer = [(await anext(stream)).token]
            world.seconds = 1000.0
            assert len(world.table) == 1
            answer += [each.token async for each in stream]
        assert answer == continuation(PROMPT, 3)

    run(body)


def test_a_cancelled_stream_stops_and_gives_its_place_back() -> None:
    async def body(world: World) -> None:
        world.forward.gate.clear()
        task = asyncio.create_task(world.all(PROMPT, 90))
        await asyncio.to_thread(world.forward.entered.wait, 30)
        assert len(world.table) == 1
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert len(world.table) == 0
        world.forward.gate.set()
        await world.all([9] * 7, 1)
        assert world.forward.batches == [[3], [7]]

    run(body)


def test_a_stream_whose_engine_fails_says_so() -> None:
    async def body(world: World) -> None:
        world.forward.failures.append(RuntimeError("out of memory"))
        with pytest.raises(CloudError, match="out of memory"):
            await world.all(PROMPT, 3)

    run(body)


def test_streams_and_sessions_share_the_limit() -> None:
    async def body(world: World) -> None:
        sessions = [await world.table.open() for _ in range(4)]
        with pytest.raises(CloudBusyError):
            await world.all(PROMPT, 3)
        for session in sessions:
            await world.table.close(session.session_id)

    run(body)
