from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

import pytest
from prometheus_client import generate_latest

from cloud.engine.base import Check, Checked, Chunk
from cloud.measured import MeasuredEngine
from cloud.metrics import Metrics
from runtime.errors import CloudError, CloudUnavailableError
from tests.support.scripted import ScriptedEngine, of, samples


class World:
    def __init__(self) -> None:
        self.inner = ScriptedEngine()
        self.metrics = Metrics(self.inner, max_draft_tokens=8, max_sessions=9)
        self.engine = MeasuredEngine(self.inner, self.metrics)

    def value(self, name: str, **labels: str) -> float:
        return samples(generate_latest(self.metrics.registry).decode())[of(name, **labels)]


@pytest.fixture
def world() -> World:
    return World()


def test_it_answers_as_the_engine_does_and_counts(world: World) -> None:
    async def live() -> None:
        await world.engine.open("a", "who")
        checked = await world.engine.check("a", Check(0, [1, 2], [3, 4, 5, 6]))
        assert (checked.accepted, checked.next_token, checked.processed_tokens) == (2, 7, 6)
        async with aclosing(world.engine.stream([1, 2], 3)) as stream:
            assert [each.token async for each in stream] == [7, 7, 7]
        assert (await world.engine.forward("a", Chunk(0, 4, bytes(64), "fp32", 1))).states == bytes(16)
        await world.engine.close("a")

    asyncio.run(live())
    assert world.inner.calls == [("open", "a", "who"), ("close", "a")]
    assert world.value("synera_accepted_tokens_total", position="2") == 1
    assert world.value("synera_accepted_tokens_total", position="3") == 0
    assert world.value("synera_verified_tokens_total", position="4") == 1
    assert world.value("synera_generated_tokens_total") == 3
    assert world.value("synera_chunk_rows_total", direction="out") == 1


def test_sessions_and_streams_that_are_open_are_told(world: World) -> None:
    async def live() -> None:
        for each in ("a", "b", "c"):
            await world.engine.open(each)
        await world.engine.close("b")
        await world.engine.close("b")
        await world.engine.close("never there")
        assert world.value("synera_sessions") == 2
        stream = world.engine.stream([1], 5)
        assert world.value("synera_streams") == 0  # nothing is held before the first step
        await anext(stream)
        assert world.value("synera_streams") == 1
        await stream.aclose()
        assert world.value("synera_streams") == 0
        await world.engine.stop()
        assert world.value("synera_sessions") == 0

    asyncio.run(live())


def test_a_session_closed_while_it_opens_is_not_told_for_ever(world: World) -> None:
    gate = asyncio.Event()

    async def slow(session_id: str, account: str = "") -> None:
        await gate.wait()

    async def live() -> None:
        world.inner.open = slow  # type: ignore[method-assign]
        opening = asyncio.create_task(world.engine.open("a"))
        await asyncio.sleep(0)
        await world.engine.close("a")
        gate.set()
        await opening

    asyncio.run(live())
    assert world.value("synera_sessions") == 0


def test_a_check_that_fails_is_no_verdict(world: World) -> None:
    async def fails(session_id: str, check: Check) -> Checked:
        raise CloudError("planted")

    world.inner.check = fails  # type: ignore[method-assign]
    with pytest.raises(CloudError, match="planted"):
        asyncio.run(world.engine.check("a", Check(0, [1], [2])))
    assert world.value("synera_verified_tokens_total", position="1") == 0
    assert world.value("synera_queue_seconds_count", kind="check") == 0


def test_a_stream_is_logged_with_what_it_cost(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def live() -> None:
        assert len([each async for each in world.engine.stream([1, 2, 3], 4, account="patient")]) == 4
        left = world.engine.stream([1, 2], 90, account="hasty")
        await anext(left)
        await left.aclose()

    asyncio.run(live())
    told = [each.fields for each in caplog.records if each.getMessage() == "stream ended"]  # type: ignore[attr-defined]
    assert [(each["account"], each["how"], each["answers"], each["processed_tokens"]) for each in told] == [
        ("patient", "over", 4, 6),
        ("hasty", "left", 1, 2),
    ]
    assert [each["compute_seconds"] for each in told] == [0.008, 0.002]


def test_nobody_is_admitted_to_a_draining_engine_and_who_is_in_goes_on(world: World) -> None:
    async def live() -> None:
        await world.engine.open("a")
        stream = world.engine.stream([1], 3)
        await anext(stream)
        world.engine.admit_no_more("draining")
        for wants in (world.engine.open("b"), anext(world.engine.stream([1], 1))):
            with pytest.raises(CloudUnavailableError, match="draining"):
                await wants
        assert (await world.engine.check("a", Check(0, [1], []))).next_token == 7
        assert len([each async for each in stream]) == 2
        assert world.engine.held == 1
        await world.engine.close("a")
        await world.engine.close("b")
        assert world.engine.held == 0

    asyncio.run(live())
