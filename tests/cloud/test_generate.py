from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

import pytest

from cloud.admission import Admission, Limits
from cloud.engine.base import Streamed
from cloud.engine.embedded.engine import EmbeddedEngine
from cloud.generate import Generation
from cloud.identity import Client
from runtime.errors import CloudBusyError, CloudError, CloudRejectedError
from runtime.sampling import Sampling
from tests.support.engine import VOCAB, FakeForward, choice, continuation, fake_engine

PROMPT = [1, 2, 3]


class World:
    """Streams over a fake forward."""

    def __init__(self, eos_ids: tuple[int, ...]) -> None:
        self.forward = FakeForward()
        self.engine: EmbeddedEngine = fake_engine(self.forward, eos_ids=eos_ids)
        self.admission = Admission(Limits(max_streams=4, account_streams=2), context_tokens=100)
        self.g = Generation(self.engine, self.admission)

    async def all(self, prompt: list[int], count: int) -> list[int]:
        return [each.token async for each in self.g.generate(prompt, count)]


def run(body: Callable[[World], Awaitable[None]], eos_ids: tuple[int, ...] = ()) -> None:
    async def live() -> None:
        world = World(eos_ids)
        await world.engine.start()
        try:
            await body(world)
            assert not world.admission.held
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
            assert world.admission.held.streams == 1
        assert not world.admission.held
        assert await world.all([9] * 7, 1) == [choice([9] * 7)]  # behind it in the queue
        ran = len(world.forward.batches)
        await world.all([9] * 7, 1)
        assert world.forward.batches[ran:] == [[7]]

    run(body)


def test_a_closed_stream_is_closed_in_the_engine_at_once() -> None:
    async def body(world: World) -> None:
        plain, closed = world.engine.stream, []

        async def stream(
            prompt: Sequence[int], max_new_tokens: int, sampling: Sampling | None, account: str, log_probabilities: bool
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


def test_the_engines_work_ends_with_the_answer_though_nobody_reads_it() -> None:
    async def body(world: World) -> None:
        async with aclosing(world.g.generate(PROMPT, 12)) as stream:
            answer = [(await anext(stream)).token]
            while world.admission.held.requests:
                await asyncio.sleep(0)
            assert (world.admission.held.tokens, world.admission.held.streams) == (0, 1)
            assert len(world.forward.batches) == 12
            answer += [each.token async for each in stream]
        assert answer == continuation(PROMPT, 12)

    run(body)


def test_a_cancelled_stream_stops_and_gives_its_place_back() -> None:
    async def body(world: World) -> None:
        world.forward.gate.clear()
        task = asyncio.create_task(world.all(PROMPT, 90))
        await asyncio.to_thread(world.forward.entered.wait, 30)
        assert world.admission.held.streams == 1
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert not world.admission.held
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


def test_streams_have_places_of_their_own() -> None:
    async def body(world: World) -> None:
        one, other = Client("a", "one"), Client("b", "other")
        streams = [world.g.generate(PROMPT, 3, None, one) for _ in range(3)]
        for each in streams[:2]:
            await anext(each)
        with pytest.raises(CloudBusyError, match="2 streams in flight, of at most 2"):
            await anext(streams[2])
        assert [each.token async for each in world.g.generate(PROMPT, 3, None, other)] == continuation(PROMPT, 3)
        for each in streams:
            await each.aclose()

    run(body)


def test_work_is_charged_to_who_asks() -> None:
    async def body(world: World) -> None:
        plain, accounts = world.engine.stream, []

        def stream(
            prompt: Sequence[int], max_new_tokens: int, sampling: Sampling | None, account: str, log_probabilities: bool
        ) -> AsyncGenerator[Streamed, None]:
            accounts.append(account)
            return plain(prompt, max_new_tokens, sampling, account)

        world.engine.stream = stream  # type: ignore[method-assign]
        assert len([each async for each in world.g.generate(PROMPT, 2, None, Client("name", "account"))]) == 2
        assert accounts == ["account"]

    run(body)
