from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from math import nan

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cloud.identity import NOBODY, Client
from cloud.sessions import Session, SessionTable, check_session_id
from runtime.errors import CloudBusyError, CloudRejectedError, SessionLostError, SettingError

LEASE, UNUSED = 10.0, 6.0


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


OWNERS = [Client(f"name {i}", f"account {i}") for i in range(3)]
MOST, MOST_OF_ONE = 4, 3


class Table(RuleBasedStateMachine):
    """The table against a plain list of sessions, and the engine against both."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.now = 0.0
        self.closer = Closer()
        self.table = SessionTable(
            self.closer,
            max_sessions=MOST,
            lease_seconds=LEASE,
            unused_seconds=UNUSED,
            account_sessions=MOST_OF_ONE,
            now=lambda: self.now,
        )
        self.alive: list[Session] = []
        self.seen: list[Session] = []
        self.refusals: list[float | None] = []

    def teardown(self) -> None:
        self.loop.close()

    def holds(self, owner: Client) -> int:
        return sum(each.owner == owner for each in self.alive)

    def expire(self) -> None:
        self.alive = [
            each for each in self.alive if each.running or self.now < each.idle_since + (LEASE if each.used else UNUSED)
        ]

    def may_end(self, newcomer: Client) -> list[Session]:
        """Whose place a newcomer may get, by the rule."""
        mine = self.holds(newcomer)
        idle = [each for each in self.alive if not each.running and self.holds(each.owner) > mine]
        idle = [each for each in idle if self.holds(each.owner) > mine + 1 or self.now - each.idle_since >= 5.0]
        most = max((self.holds(each.owner) for each in idle), default=0)
        return [each for each in idle if self.holds(each.owner) == most]

    @rule(owner=st.sampled_from(OWNERS))
    def open(self, owner: Client) -> None:
        self.expire()
        full, may_end = len(self.alive) == MOST, self.may_end(owner)
        too_many = self.holds(owner) == MOST_OF_ONE
        try:
            session = self.loop.run_until_complete(self.table.open(owner))
        except CloudBusyError as busy:
            self.refusals.append(busy.retry_after_seconds)
            assert too_many or (full and not may_end)
            return
        assert not too_many
        if full:
            ended = min(may_end, key=lambda each: (each.used, each.idle_since))
            assert session is not ended
            found = [each for each in may_end if each.session_id in self.closer.closed]
            assert [(each.used, each.idle_since) for each in found] == [(ended.used, ended.idle_since)]
            self.alive.remove(found[0])
        assert session.session_id not in [each.session_id for each in self.seen]
        assert (session.seq, session.asked, session.used) == (0, [], False)
        self.seen.append(session)
        self.alive.append(session)

    @rule(index=st.integers(0, 19), owner=st.sampled_from(OWNERS))
    def get(self, index: int, owner: Client) -> None:
        self.expire()
        if not self.seen:
            return
        session = self.seen[index % len(self.seen)]
        self.loop.run_until_complete(self._get(session, owner))

    async def _get(self, session: Session, owner: Client) -> None:
        if session in self.alive and session.owner == owner:
            assert self.table.get(session.session_id, owner.name) is session
            return
        with pytest.raises(SessionLostError) as caught:
            self.table.get(session.session_id, owner.name)
        with pytest.raises(SessionLostError) as unknown:
            self.table.get("0" * 32, owner.name)
        assert str(caught.value) == str(unknown.value).replace("0" * 32, session.session_id)

    @rule(index=st.integers(0, 19), answered=st.booleans())
    def run(self, index: int, answered: bool) -> None:
        """Begin work of a session, or end what was begun."""
        self.expire()
        if self.alive:
            session = self.alive[index % len(self.alive)]
            if session.running and answered:
                self.table.renew(session, used=True)
            session.running = 1 - session.running

    @rule(index=st.integers(0, 19), used=st.booleans())
    def renew(self, index: int, used: bool) -> None:
        self.expire()
        if self.seen:
            self.table.renew(self.seen[index % len(self.seen)], used=used)

    @rule(index=st.integers(0, 19), owner=st.sampled_from(OWNERS))
    def close(self, index: int, owner: Client) -> None:
        if self.seen:
            session = self.seen[index % len(self.seen)]
            self.loop.run_until_complete(self.table.close(session.session_id, owner.name))
            if session.owner == owner and session in self.alive:
                assert session.session_id in self.closer.closed
                self.alive.remove(session)

    @rule(seconds=st.sampled_from([0.5, UNUSED, LEASE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def refusals_say_when_to_come_back(self) -> None:
        assert all(each is not None and 0 < each <= LEASE for each in self.refusals)

    @invariant()
    def same_sessions(self) -> None:
        self.expire()
        assert self.loop.run_until_complete(self._swept()) == len(self.alive) <= MOST
        ended = sorted(each.session_id for each in self.seen if each not in self.alive)
        assert sorted(self.closer.closed) == ended  # each once, none too early
        assert max(map(self.holds, OWNERS)) <= MOST_OF_ONE

    async def _swept(self) -> int:
        left = len(self.table)
        await self.table.closed()
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
        session = await table.open(NOBODY)
        with pytest.raises(CloudBusyError, match="all 1 sessions are in use; try again later") as caught:
            await table.open(NOBODY)
        assert caught.value.retry_after_seconds == LEASE
        await table.close(session.session_id, "")
        assert len((await table.open(NOBODY)).session_id) == 32

    run(body)


def test_a_place_is_free_only_when_the_engine_has_closed_its_session() -> None:
    async def body(table: SessionTable, closer: Closer) -> None:
        first = await table.open(NOBODY)
        closer.gate.clear()
        table.remove(first, None)
        opening = asyncio.create_task(table.open(NOBODY))
        await asyncio.sleep(0.01)
        assert (opening.done(), closer.asked, len(table)) == (False, [first.session_id], 0)
        closer.gate.set()
        await opening
        assert closer.closed == [first.session_id]

    run(body)


def test_a_caller_who_goes_away_leaves_nothing_open() -> None:
    async def body(table: SessionTable, closer: Closer) -> None:
        session = await table.open(NOBODY)
        closer.gate.clear()
        tasks = [asyncio.create_task(table.close(session.session_id, "")), asyncio.create_task(table.open(NOBODY))]
        await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        assert all(task.cancelled() for task in tasks)
        assert len(table) == 0  # no place was taken
        closer.gate.set()
        await table.closed()
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
        idle, running, fresh = [await table.open(NOBODY) for _ in range(3)]
        running.running = 1
        seconds[0] = LEASE / 2
        table.renew(fresh, used=True)
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


def test_whoever_holds_most_makes_room_with_what_it_never_used() -> None:
    async def body(table: SessionTable, closer: Closer) -> None:
        hog, newcomer = Client("a", "hog"), Client("c", "new")
        used, running, unused, running_too = [await table.open(hog) for _ in range(4)]
        table.renew(used, used=True)
        running.running = running_too.running = 1
        await table.open(newcomer)
        assert closer.closed == [unused.session_id]
        await table.open(newcomer)
        assert closer.closed == [unused.session_id, used.session_id]
        with pytest.raises(CloudBusyError):  # two each
            await table.open(newcomer)
        with pytest.raises(CloudBusyError):
            await table.open(hog)
        table.remove(running_too, None)
        await table.open(newcomer)

    run(body, max_sessions=4)


def test_where_everybody_holds_one_only_who_was_idle_for_some_seconds_gives_way() -> None:
    async def live() -> None:
        closer, seconds = Closer(), [0.0]
        table = SessionTable(closer, max_sessions=2, lease_seconds=LEASE, now=lambda: seconds[0])
        first, second = await table.open(Client("a", "a")), await table.open(Client("b", "b"))
        seconds[0] = 4.0
        table.renew(first, used=True)
        with pytest.raises(CloudBusyError) as caught:
            await table.open(Client("c", "c"))
        assert caught.value.retry_after_seconds == 5.0
        seconds[0] = 5.0
        await table.open(Client("c", "c"))
        assert closer.closed == [second.session_id]
        assert first.session_id not in closer.closed

    asyncio.run(asyncio.wait_for(live(), 60))


def test_an_account_has_no_more_than_its_share_and_is_told_when_one_ends() -> None:
    async def live() -> None:
        closer, seconds = Closer(), [0.0]
        table = SessionTable(closer, max_sessions=9, lease_seconds=LEASE, account_sessions=2, now=lambda: seconds[0])
        for _ in range(2):
            await table.open(Client("a", "a"))
        seconds[0] = 3.0
        await table.open(Client("b", "b"))
        with pytest.raises(CloudBusyError, match="2 sessions, of at most 2; close some, or raise --account-sessions") as caught:
            await table.open(Client("other name", "a"))
        assert caught.value.retry_after_seconds == LEASE - 3.0

    asyncio.run(asyncio.wait_for(live(), 60))


def test_many_who_open_at_once_never_have_more_than_there_are_places() -> None:
    async def body(table: SessionTable, closer: Closer) -> None:
        for each in [await table.open(Client("hog", "hog")) for _ in range(4)][:2]:
            table.renew(each, used=True)
        opened = await asyncio.gather(*(table.open(Client("n", str(i))) for i in range(9)), return_exceptions=True)
        assert [isinstance(each, CloudBusyError) for each in opened].count(True) == 9 - 3
        assert len(table) == 4
        assert len(closer.closed) == 3  # the last of them: one idle for less than some seconds stays

    run(body, max_sessions=4)


@pytest.mark.parametrize(
    "session_id", ["", "unknown", "0" * 31, "0" * 33, "0" * 20_000, "A" * 32, "g" * 32, "0" * 31 + "\n", "é" * 32]
)
def test_what_is_no_id_is_refused_without_being_repeated_whole(session_id: str) -> None:
    with pytest.raises(CloudRejectedError, match="is not 32 lower-case hex characters") as caught:
        check_session_id(session_id)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()
    check_session_id("0123456789abcdef" * 2)
