"""The table of sessions: which are open, until when, and what each was last asked.

What does not live here: histories and caches; they are the engine's, which is told of every session that ends here.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from cloud.cost import Cost
from cloud.log import fields
from runtime.errors import CloudBusyError, CloudRejectedError, SessionLostError
from runtime.settings import above, shown, whole
from runtime.wire.sizes import KEY_CHARACTERS, SESSION_ID_CHARACTERS

MOST_SESSIONS = 100_000
"""Largest `max_sessions`."""
_SESSION_ID = re.compile(f"[0-9a-f]{{{SESSION_ID_CHARACTERS}}}")
_KEY = re.compile(f"[0-9a-f]{{{KEY_CHARACTERS}}}")
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Session:
    """One device's answer in progress, or the place of a stream."""

    session_id: str
    expires_at: float
    """On the table's clock, seconds."""
    seq: int = 0
    """Number of the last request."""
    asked: bytes = b""
    """Digest of what it asked."""
    answer: asyncio.Task[Any] | None = None
    """Result of the last request, or its running; a repeat gets the same."""
    running: int = 0
    """Requests in flight; a running session does not expire."""
    ended: Callable[[], object] | None = None
    """Called when it leaves the table."""
    account: str = ""
    """Whom its work is charged to."""
    opened_at: float = 0.0
    """On the table's clock, seconds."""
    cost: Cost = field(default_factory=Cost)
    """What its work has cost up to now."""


def check_session_id(session_id: str) -> None:
    """Do nothing for what may be a session's id.

    Raises:
        CloudRejectedError: it has not the form of one.
    """
    if not _SESSION_ID.fullmatch(session_id):
        raise CloudRejectedError(
            f"session_id={shown(session_id)} is not {SESSION_ID_CHARACTERS} lower-case hex characters, as Open returns them"
        )


def check_key(key: str) -> None:
    """Do nothing for what may be the key of an Open.

    Raises:
        CloudRejectedError: it has not the form of one, so that it might be long, or easy to guess.
    """
    if not _KEY.fullmatch(key):
        raise CloudRejectedError(f"key={shown(key)} is not {KEY_CHARACTERS} lower-case hex characters; draw them at random")


class SessionTable:
    """Sessions by id; used on one event loop. Expired ones end whenever the table is used, and at each `sweep`.

    A session that leaves the table, whichever way, is closed in the engine by a task of the table's own, so that no
    caller who goes away can keep it from being closed. Until that task has ended nobody gets the place.
    """

    def __init__(
        self,
        close: Callable[[str], Coroutine[Any, Any, None]],
        *,
        max_sessions: int,
        lease_seconds: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty table.

        Args:
            close: closes a session in the engine, by its id.
            max_sessions: most sessions at a time.
            lease_seconds: an idle session is kept this long.
            now: monotonic seconds.

        Raises:
            SettingError: a size is outside its range.
        """
        whole("max_sessions", max_sessions, 1, MOST_SESSIONS)
        above("lease_seconds", lease_seconds, 0)
        self._close, self._now = close, now
        self.max_sessions, self.lease_seconds = max_sessions, lease_seconds
        self._sessions: dict[str, Session] = {}
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        self.sweep()
        return len(self._sessions)

    async def open(self, ended: Callable[[], object] | None = None, account: str = "") -> Session:
        """Take a place under a fresh id.

        Args:
            ended: called when the session leaves the table again, whichever way.
            account: whom its work is charged to.

        Raises:
            CloudBusyError: the table is full.

        Cancellation: no place is taken.
        """
        self.sweep()
        await self._closed()
        if len(self._sessions) >= self.max_sessions:
            raise CloudBusyError(
                f"all {self.max_sessions} sessions are in use; try again later (idle ones end after {self.lease_seconds:g} s), or raise --max-sessions"
            )
        session_id, now = secrets.token_hex(SESSION_ID_CHARACTERS // 2), self._now()
        session = Session(session_id, now + self.lease_seconds, ended=ended, account=account, opened_at=now)
        self._sessions[session_id] = session
        return session

    def get(self, session_id: str) -> Session:
        """Find a session and renew its lease.

        Raises:
            SessionLostError: there is none (any more).
        """
        self.sweep()
        session = self._sessions.get(session_id)
        if session is None:
            raise SessionLostError(
                f"no session {session_id!r}: it ended or its lease expired; open a new one and send the whole history"
            )
        self.renew(session)
        return session

    def renew(self, session: Session) -> None:
        """Start the lease again."""
        session.expires_at = self._now() + self.lease_seconds

    async def close(self, session_id: str) -> Cost:
        """End a session and wait until the engine has closed it; return what it cost, nothing when there is none.

        Cancellation: the session ends all the same.
        """
        cost = self.remove(session_id, "closed")
        await self._closed()
        return cost

    def remove(self, session_id: str, how: str | None = "removed") -> Cost:
        """Begin to end a session, for who cannot wait; return what it cost, nothing when there is none.

        Args:
            session_id: its id.
            how: it ends, in a word or a few, for the log; None logs nothing.
        """
        if (session := self._sessions.pop(session_id, None)) is None:
            return Cost()
        if session.ended is not None:
            session.ended()
        task = asyncio.get_running_loop().create_task(self._close(session_id))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        if how is not None:
            self._tell(session, how)
        return session.cost

    def _tell(self, session: Session, how: str) -> None:
        who = {"session": session.session_id, "account": session.account, "how": how}
        seconds = round(self._now() - session.opened_at, 3)
        _log.info("session ended", extra=fields(**who, **session.cost.told(), open_seconds=seconds))

    def sweep(self) -> int:
        """Begin to end the sessions whose lease is over; return how many."""
        now = self._now()
        over = [s.session_id for s in self._sessions.values() if s.expires_at <= now and not s.running]
        for session_id in over:
            self.remove(session_id, "lease over")
        return len(over)

    async def end(self) -> int:
        """End all sessions, also those that run, and wait until the engine has closed them; return how many there were."""
        left = list(self._sessions)
        for session_id in left:
            self.remove(session_id, "stopped")
        await self._closed()
        return len(left)

    async def _closed(self) -> None:
        while self._closing:
            await asyncio.wait(self._closing)
