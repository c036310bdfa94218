"""What sessions cost: summed up over their work, answered by Close, and a line of the log at their ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from cloud.admission import Admission, Limits
from cloud.cost import Cost
from cloud.engine.base import Check, Checked, Streamed
from cloud.identity import Client
from cloud.openings import Openings
from cloud.sessions import SessionTable
from cloud.verify import Verification, VerifyRequest
from runtime.errors import CloudError, CloudUnavailableError
from tests.support.scripted import ScriptedEngine

KEY, WHO = "0" * 32, Client("who", "who")
IDLE = Client("idle", "idle")


class World:
    """Sessions over an engine whose every check is charged 3 ms."""

    def __init__(self) -> None:
        self.seconds, self.engine = 0.0, ScriptedEngine()
        self.table = SessionTable(self.engine.close, max_sessions=4, lease_seconds=60, now=lambda: self.seconds)
        admission = Admission(Limits(), context_tokens=100)
        self.o = Openings(self.engine, self.table, "hash")
        self.v = Verification(self.engine, self.table, admission, max_draft_tokens=8)

    async def check(self, session_id: str, seq: int, draft: tuple[int, ...] = (1, 2), client: Client = WHO) -> Checked:
        return await self.v.verify(VerifyRequest(session_id, seq, Check(0, (1, 2, 3), draft)), client)


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, object]]]:
    """Fields of the sessions' last lines."""
    caplog.set_level(logging.INFO)
    return lambda: [each.fields for each in caplog.records if each.getMessage() == "session ended"]  # type: ignore[attr-defined]


def run(body: Callable[[World], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(body(World()), 60))


def test_costs_add_up() -> None:
    cost = Cost()
    cost.add(Checked(0, 1, (), 0.0, 9.0, 9.0, 1.5, 7, 1))
    cost.add(Streamed(1, 9.0, 9.0, 0.25, 2))
    assert cost == Cost(answers=2, compute_ms=1.75, processed_tokens=9)


def test_a_closed_session_is_told_and_logged_with_what_it_cost(told: Callable[[], list[dict[str, object]]]) -> None:
    async def body(world: World) -> None:
        session_id = await world.o.open("hash", client=WHO)
        other = await world.o.open("hash", client=Client("another", "another"))
        for seq in (1, 2):
            await world.check(session_id, seq)
        await world.check(session_id, 2)  # a repeat costs nothing more
        await world.check(other, 1, (), Client("another", "another"))
        world.seconds = 7.5
        assert await world.o.close(session_id, client=WHO) == Cost(2, 6.0, 10)
        assert await world.o.close(session_id, client=WHO) == Cost()  # it is over, and so is what it cost
        assert told() == [
            {
                "session": session_id,
                "account": "who",
                "how": "closed",
                "answers": 2,
                "processed_tokens": 10,
                "compute_seconds": 0.006,
                "open_seconds": 7.5,
            }
        ]

    run(body)


def test_who_closes_by_key_is_told_too() -> None:
    async def body(world: World) -> None:
        await world.check(await world.o.open("hash", KEY, WHO), 1)
        assert await world.o.close("", KEY, WHO) == Cost(1, 3.0, 5)
        assert await world.o.close("", KEY, WHO) == Cost()

    run(body)


def test_the_line_says_how_it_ended_and_there_is_none_of_what_never_began(told: Callable[[], list[dict[str, object]]]) -> None:
    async def body(world: World) -> None:
        async def refuses(session_id: str, account: str = "") -> None:
            raise CloudUnavailableError("planted")

        await world.check(await world.o.open("hash", client=IDLE), 1, client=IDLE)
        world.seconds = 61
        assert world.table.sweep() == 1
        await world.o.open("hash", client=Client("last", "last"))
        assert await world.table.end() == 1
        world.engine.open = refuses  # type: ignore[method-assign]
        with pytest.raises(CloudUnavailableError):
            await world.o.open("hash", client=Client("unlucky", "unlucky"))

    run(body)
    assert [(each["account"], each["how"], each["answers"]) for each in told()] == [
        ("idle", "lease over", 1),
        ("last", "stopped", 0),
    ]


def test_a_check_that_fails_is_not_charged() -> None:
    async def body(world: World) -> None:
        async def fails(session_id: str, check: Check) -> Checked:
            raise CloudError("planted")

        session_id = await world.o.open("hash", client=WHO)
        await world.check(session_id, 1)
        world.engine.check = fails  # type: ignore[method-assign]
        with pytest.raises(CloudError):
            await world.check(session_id, 2)
        assert await world.o.close(session_id, client=WHO) == Cost(1, 3.0, 5)

    run(body)
