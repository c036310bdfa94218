"""The wait and the load of another machine: drawn once a request, waited for, told; and never in another request's way."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import aclosing

import pytest

from cloud.engine.base import Check
from cloud.engine.embedded.engine import EmbeddedEngine
from cloud.engine.embedded.pace import Arrival, Arrivals, Pace
from runtime.errors import CloudUnavailableError, SessionLostError
from tests.support.batches import Probe, batcher, hold
from tests.support.embedded import run
from tests.support.engine import FakeForward, choice, continuation, fake_engine
from tests.support.paces import FakeTime, NoWait
from traces import bundled
from traces.profile import CloudProfile

PROMPT = [1, 2, 3]
PROFILE = CloudProfile("test", "", 0.0, 0.0, queue_ms_quantiles=(0.0, 5.0, 30.0), load_quantiles=(0, 3, 24))
LONG = CloudProfile("test", "", 0.0, 0.0, queue_ms_quantiles=(1e6,), load_quantiles=(5,))
"""An hour for everybody."""


def test_a_cloud_profile_is_a_pace() -> None:
    assert isinstance(CloudProfile.load(bundled.profile("gpu")), Pace)
    assert not isinstance(object(), Pace)


def test_wait_and_load_are_drawn_together_by_the_seed() -> None:
    generator = random.Random(7)
    uniforms = [generator.random() for _ in range(20)]
    want = [Arrival(PROFILE.queue_seconds(u), PROFILE.background_load(u)) for u in uniforms]
    arrivals = Arrivals(PROFILE, 7)
    assert [arrivals.draw() for _ in range(20)] == want
    assert len({each.wait_seconds for each in want}) == 20
    assert [Arrivals(None, 7).draw() for _ in range(3)] == [Arrival(0.0, 0)] * 3


# ---------------------------------------------------------------- waiting, on a clock of the test's


def test_a_job_is_not_run_before_its_wait_is_over_and_others_are() -> None:
    forward, time = FakeForward(), FakeTime()
    with batcher(forward, now=time.now, sleep=time.sleep) as made:
        late, early = Probe([2] * 5), Probe([3] * 4)
        made.put(late, wait_seconds=10.0)
        made.put(early)
        assert early.outcome().queue_ms == 0.0
        assert forward.batches == [[4]]
        time.seconds = 9.999
        assert run_alone(made).queue_ms == 0.0
        assert forward.batches == [[4], [1]]
        time.seconds = 10.0
        made.put(Probe([4]))  # the thread looks at the test's clock when something comes
        assert late.outcome().queue_ms == 10_000.0
        assert forward.batches == [[4], [1], [5, 1]]


def test_a_real_wait_counts_as_the_drawn_one_and_is_not_added_to_it() -> None:
    forward, time = FakeForward(), FakeTime()
    with batcher(forward, now=time.now, sleep=time.sleep) as made:
        hold(forward, made)
        short, none, long = Probe([2]), Probe([3]), Probe([4])
        made.put(short, wait_seconds=3.0)
        made.put(none)
        made.put(long, wait_seconds=20.0)
        time.seconds = 8.0  # so long the forward in hand took
        forward.gate.set()
        assert [each.outcome().queue_ms for each in (short, none)] == [8000.0, 8000.0]
        assert long.got.empty()
        time.seconds = 21.0
        run_alone(made)
        assert long.outcome().queue_ms == 21_000.0


def run_alone(made):  # type: ignore[no-untyped-def]
    job = Probe([9])
    made.put(job)
    return job.outcome()


def test_only_the_first_forward_of_a_stream_waits() -> None:
    forward, time = FakeForward(), FakeTime()
    with batcher(forward, now=time.now, sleep=time.sleep) as made:
        stream = Probe(PROMPT, rounds=4)
        made.put(stream, wait_seconds=5.0)
        run_alone(made)
        time.seconds = 6.0
        run_alone(made)
        assert [stream.outcome().queue_ms for _ in range(4)] == [6000.0, 0.0, 0.0, 0.0]


# ---------------------------------------------------------------- through the engine


def test_queue_and_load_are_the_profiles_at_one_quantile() -> None:
    generator = random.Random(3)
    uniforms = [generator.random() for _ in range(12)]

    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        await engine.open("a")
        for u in uniforms[:8]:
            got = await engine.check("a", Check(0, PROMPT, []))
            assert got.queue_ms >= PROFILE.queue_seconds(u) * 1e3
            assert got.load == 1 + PROFILE.background_load(u)
            assert got.next_token == choice(PROMPT)
        for u in uniforms[8:]:
            answer = [each async for each in engine.stream(PROMPT, 3)]
            assert [each.token for each in answer] == continuation(PROMPT, 3)
            assert answer[0].queue_ms >= PROFILE.queue_seconds(u) * 1e3

    run(body, pace=PROFILE, pace_seed=3)


def test_without_a_pace_nobody_waits_and_nobody_is_added() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        await engine.open("a")
        for _ in range(5):
            assert (await engine.check("a", Check(0, PROMPT, []))).load == 1

    run(body)


class Some(NoWait):
    """Every other request waits for an hour."""

    def __init__(self) -> None:
        self._draws = 0

    def queue_seconds(self, uniform: float) -> float:
        self._draws += 1
        return 3600.0 if self._draws % 2 else 0.0


def test_who_waits_is_in_nobodys_way() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        for name in ("a", "b"):
            await engine.open(name)
        waits = asyncio.create_task(engine.check("a", Check(0, [7] * 9, [])))
        await asyncio.sleep(0)
        got = await engine.check("b", Check(0, PROMPT, []))
        assert (got.next_token, got.queue_ms < 3.6e6) == (choice(PROMPT), True)
        assert not waits.done()
        assert forward.batches == [[3]]
        waits.cancel()
        await asyncio.wait([waits])

    run(body, pace=Some())


@pytest.mark.parametrize("how", ["closed", "cancelled", "stopped"])
def test_a_check_that_waits_can_be_ended_and_leaves_nothing(how: str) -> None:
    async def live() -> None:
        forward = FakeForward()
        engine = fake_engine(forward, pace=LONG)
        await engine.start()
        await engine.open("a")
        check = asyncio.create_task(engine.check("a", Check(0, PROMPT, [])))
        await asyncio.sleep(0)
        if how == "closed":
            await engine.close("a")
            with pytest.raises(SessionLostError):
                await check
        elif how == "cancelled":
            check.cancel()
            await asyncio.wait([check])
        await engine.stop()
        if how == "stopped":
            with pytest.raises(CloudUnavailableError):
                await check
        assert (forward.batches, engine.usage.used_blocks, engine.usage.waiting) == ([], 0, 0)
        assert "engine" not in {thread.name for thread in threading.enumerate()}

    asyncio.run(asyncio.wait_for(live(), 60))


def test_a_stream_that_waits_can_be_closed() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        async with aclosing(engine.stream(PROMPT, 3)) as stream:
            first = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait([first])
        assert forward.batches == []

    run(body, pace=LONG)


def test_a_pace_that_raises_costs_its_request_and_nothing_else() -> None:
    class Broken(NoWait):
        def queue_seconds(self, uniform: float) -> float:
            raise ZeroDivisionError("planted")

    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        await engine.open("a")
        with pytest.raises(ZeroDivisionError):
            await engine.check("a", Check(0, PROMPT, []))
        Broken.queue_seconds = NoWait.queue_seconds  # type: ignore[method-assign]
        assert (await engine.check("a", Check(0, PROMPT, []))).next_token == choice(PROMPT)

    run(body, pace=Broken())
