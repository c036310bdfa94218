from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cloud.sessions import SessionTable
from runtime.errors import CloudBusyError, SessionLostError
from tests.support.engine import FakeCache

LEASE = 10.0


class Table(RuleBasedStateMachine):
    """The table against a plain dict of expiry times."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.table = SessionTable(FakeCache, max_sessions=3, lease_seconds=LEASE, now=lambda: self.now)
        self.expiry: dict[str, float] = {}
        self.pinned: dict[str, object] = {}
        self.seen: list[str] = []

    def alive(self) -> set[str]:
        return {i for i, t in self.expiry.items() if t > self.now or i in self.pinned}

    @rule()
    def open(self) -> None:
        full = len(self.alive()) == 3
        try:
            session = self.table.open()
        except CloudBusyError:
            assert full
            return
        assert not full
        assert session.session_id not in self.seen
        assert (session.history, session.cached, session.seq) == ([], 0, 0)
        self.seen.append(session.session_id)
        self.expiry[session.session_id] = self.now + LEASE

    @rule(index=st.integers(0, 9), pin=st.booleans())
    def get(self, index: int, pin: bool) -> None:
        if not self.seen:
            return
        session_id = self.seen[index % len(self.seen)]
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
            self.table.close(session_id)
            self.expiry.pop(session_id, None)
            self.pinned.pop(session_id, None)

    @rule(seconds=st.sampled_from([0.5, 4.0, LEASE]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def same_sessions(self) -> None:
        self.expiry = {i: t for i, t in self.expiry.items() if i in self.alive()}
        assert len(self.table) == len(self.expiry)


TestTable = Table.TestCase


def test_a_full_table_says_so_and_what_to_do() -> None:
    table = SessionTable(FakeCache, max_sessions=1, lease_seconds=LEASE, now=lambda: 0.0)
    session = table.open()
    with pytest.raises(CloudBusyError, match="all 1 sessions are in use; try again later"):
        table.open()
    table.close(session.session_id)
    assert len(table.open().session_id) == 32


@pytest.mark.parametrize(("most", "lease"), [(0, 1.0), (1, 0.0)])
def test_sizes_are_checked(most: int, lease: float) -> None:
    with pytest.raises(ValueError, match=f"max_sessions={most}"):
        SessionTable(FakeCache, max_sessions=most, lease_seconds=lease)
