from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cloud.shared import Shared


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 60))


class Work:
    """Waits until it is told to go on; knows what became of it."""

    def __init__(self) -> None:
        self.goes_on, self.began = asyncio.Event(), asyncio.Event()
        self.outcomes: list[int | None] = []
        self.left: list[bool] = []
        """Whether it was over when it was left, if it was."""
        self.shared = Shared(self._work(), self.outcomes.append, lambda: self.left.append(self.shared.over))

    async def _work(self) -> int:
        self.began.set()
        await self.goes_on.wait()
        return 7


def test_all_who_wait_get_what_came_of_it_and_so_does_who_asks_later() -> None:
    async def body() -> None:
        work = Work()
        waiting = [asyncio.create_task(work.shared.result()) for _ in range(3)]
        await work.began.wait()
        waiting[0].cancel()
        work.goes_on.set()
        assert [await each for each in waiting[1:]] == [7, 7]
        assert (await work.shared.result(), work.shared.value, work.outcomes) == (7, 7, [7])
        assert waiting[0].cancelled()
        assert not work.shared.dropped

    run(body)


@pytest.mark.parametrize("begun", [True, False])
def test_with_the_last_who_waits_it_ends_also_before_it_began(begun: bool) -> None:
    async def body() -> None:
        work = Work()
        waiting = [asyncio.create_task(work.shared.result()) for _ in range(2)]
        await asyncio.sleep(0)
        if begun:
            await work.began.wait()
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        assert work.shared.dropped
        await work.shared.ended()
        assert (work.shared.over, work.shared.value, work.outcomes) == (True, None, [None])

    run(body)


def test_who_waits_for_what_another_dropped_is_told_so() -> None:
    async def body() -> None:
        work = Work()
        waiting = asyncio.create_task(work.shared.result())
        await work.began.wait()
        work.shared.drop()
        assert await waiting is None
        work.shared.drop()
        assert work.outcomes == [None]

    run(body)


def test_an_error_reaches_all_who_wait() -> None:
    async def fails() -> None:
        raise KeyError("planted")

    async def body() -> None:
        outcomes: list[None] = []
        shared = Shared(fails(), outcomes.append)
        for _ in range(2):
            with pytest.raises(KeyError, match="planted"):
                await shared.result()
        assert (outcomes, shared.value) == ([None], None)

    run(body)


def test_who_holds_it_waits_without_asking_for_the_result_and_lets_go_of_it() -> None:
    async def body() -> None:
        work = Work()
        work.shared.hold()
        waiting = asyncio.create_task(work.shared.result())
        await work.began.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        assert not work.shared.dropped
        work.shared.let_go()
        assert (work.shared.dropped, work.left) == (True, [False])
        await work.shared.ended()
        assert (work.outcomes, work.shared.failed, work.left) == ([None], False, [False])

    run(body)


def test_what_failed_is_told_from_what_was_dropped() -> None:
    async def body() -> None:
        async def fails() -> int:
            raise ValueError("planted")

        shared = Shared(fails())
        with pytest.raises(ValueError, match="planted"):
            await shared.result()
        assert (shared.failed, shared.dropped, shared.value) == (True, False, None)

    run(body)
