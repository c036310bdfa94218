from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import nan

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cloud.sessions import SessionTable, check_session_id
from runtime.errors import CloudBusyError, CloudRejectedError, SessionLostError, SettingError

LEASE = 10.0


class Closer:
    """The engine's end of the table: which sessions it was told to close; may be held at a gate."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.closed: list[str] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, session_id: str) -> None:
        self.asked.append(session_id)
        await self.gate.wait()
        self.closed.append(session_id)


class Table(RuleBasedStateMachine):
    """The table against a plain dict of expiry times, and the engine against both."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 0.0
        self.closer = Closer()
        self.table = SessionTable(self.closer, max_sessions=3, lease_seconds=LEASE, now=lambda: self.now)
        self.expiry: dict[str, float] = {}
        self.pinned: dict[str, object] = {}
        self.seen: list[str] = []

    def teardown(self) -> None:
        self.loop.close()

    def alive(self) -> set[str]:
        return {i for i, t in self.expiry.items() if t > self.now or i in self.pinned}

    @rule()
    def open(self) -> None:
        full = len(self.alive()) == 3
        try:
            session = self.loop.run_until_complete(self.table.open())
        except CloudBusyError:
            assert full
            return
        assert not full
        assert session.session_id not in self.seen
        assert (session.seq, session.answer) == (0, None)
        self.seen.append(session.session_id)
        self.expiry[session.session_id] = self.now + LEASE

    @rule(index=st.integers(0, 9), pin=st.booleans())
    def get(self, index: int, pin: bool) -> None:
        if not self.seen:
            return
        session_id = self.seen[index % len(self.seen)]
        self.loop.run_until_complete(self._get(session_id, pin))

    async def _get(self, session_id: str, pin: bool) -> None:
        if session_id not in self.alive():
            with pytest.raises(SessionLostError):
                self.table.get(session_id)
            return
        session = self.table.get(session_id)
        assert session.session_id == session_id
        self.expiry[session_id] = self.now + LEASE
        session.running = int(pin)
        self.pinned.pop(session_id, None)
        if pin:
            self.pinned[session_id] = session

    @rule(index=st.integers(0, 9))
    def close(self, index: int) -> None:
        if self.seen:
            session_id = self.seen[index % len(self.seen)]
            self.loop.run_until_complete(self.table.close(session_id))
            assert session_id in self.closer.closed
            self.expiry.pop(session_id, None)
            self.pinned.pop(session_id, None)

    @rule(seconds=st.sampled_from([0.5, 4.0, LEASE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def same_sessions(self) -> None:
        self.expiry = {i: t for i, t in self.expiry.items() if i in self.alive()}
        assert self.loop.run_until_complete(self._swept()) == len(self.expiry)
        assert sorted(self.closer.closed) == sorted(set(self.seen) - set(self.expiry))  # each once, none too early

    async def _swept(self) -> int:
        left = len(self.table)
        await self.table.close("")  # waits for what was swept
        return left


TestTable = Table.TestCase


def run(body: Callable[[SessionTable, Closer], Awaitable[None]], max_sessions: int = 1) -> None:
    async def live() -> None:
        closer = Closer()
        table = SessionTable(closer, max_sessions=max_sessions, lease_seconds=LEASE, now=lambda: 0.0)
        await body(table, closer)

    asyncio.run(asyncio.wait_for(live(), 60))


def test_a_full_table_says_so_and_what_to_do() -> None:
    async def body(table: SessionTable, closer: Closer) -> None:
        session = await table.open()
        with pytest.raises(CloudBusyError, match="all 1 sessions are in use; try again later"):
            await table.open()
        await table.close(session.session_id)
        assert len((await table.open()).session_id) == 32

    run(body)


def test_a_place_is_free_only_when_the_engine_has_closed_its_session() -> None:
    async def body(table: SessionTable, closer: Closer) -> None:
        first = await table.open()
        closer.gate.clear()
        table.remove(first.session_id)
        opening = asyncio.create_task(table.open())
        await asyncio.sleep(0.01)
        assert (opening.done(), closer.asked, len(table)) == (False, [first.session_id], 0)
        closer.gate.set()
        await opening
        assert closer.closed == [first.session_id]

    run(body)


def test_a_caller_who_goes_away_leaves_nothing_open() -> None:
    async def body(table: SessionTable, closer: Closer) -> None:
        session = await table.open()
        closer.gate.clear()
        tasks = [asyncio.create_task(table.close(session.session_id)), asyncio.create_task(table.open())]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert len(table) == 0  # no place was taken
        closer.gate.set()
        await table.close("")
        assert closer.closed == [session.session_id]

    run(body)


@pytest.mark.parametrize(
    ("most", "lease", "message"),
    [
        (0, 1.0, "max_sessions=0"),
        (True, 1.0, "max_sessions=True"),
        (1, 0.0, "lease_seconds=0.0"),
        (1, nan, "lease_seconds=nan"),
    ],
)
def test_sizes_are_checked(most: int, lease: float, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        SessionTable(Closer(), max_sessions=most, lease_seconds=lease)


def test_a_sweep_ends_what_is_over_and_nothing_else() -> None:
    async def live() -> None:
        closer, seconds = Closer(), [0.0]
        table = SessionTable(closer, max_sessions=4, lease_seconds=LEASE, now=lambda: seconds[0])
        idle, running, fresh = [await table.open() for _ in range(3)]
        running.running = 1
        seconds[0] = LEASE / 2
        table.renew(fresh)
        assert table.sweep() == 0
        seconds[0] = LEASE
        assert table.sweep() == 1
        assert table.sweep() == 0
        running.running = 0
        assert table.sweep() == 1
        assert await table.end() == 1
        assert closer.closed == [idle.session_id, running.session_id, fresh.session_id]
        assert await table.end() == 0

    asyncio.run(asyncio.wait_for(live(), 60))


@pytest.mark.parametrize(
    "session_id", ["", "unknown", "0" * 31, "0" * 33, "0" * 20_000, "A" * 32, "g" * 32, "0" * 31 + "\n", "é" * 32]
)
def test_what_is_no_id_is_refused_without_being_repeated_whole(session_id: str) -> None:
    with pytest.raises(CloudRejectedError, match="is not 32 lower-case hex characters") as caught:
        check_session_id(session_id)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()
    check_session_id("0123456789abcdef" * 2)
