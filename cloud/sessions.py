"""The table of sessions: who holds which history and cache, until when.

What does not live here: what is done to a history (verification.py). One owner: a cache belongs to its session and is
freed with it; the engine's thread only borrows it for a forward.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cloud.engine.base import Cache
from runtime.errors import CloudBusyError, SessionLostError


@dataclass(slots=True, eq=False)
class Session:
    """One device's answer in progress."""

    session_id: str
    cache: Cache
    expires_at: float
    """On the table's clock, seconds."""
    history: list[int] = field(default_factory=list)
    """All tokens known, the last verdict's next token included."""
    cached: int = 0
    """First tokens of the history whose keys and values are in the cache."""
    seq: int = 0
    """Number of the last request."""
    answer: asyncio.Task[Any] | None = None
    """Result of the last request, or its running; a repeat gets the same."""
    running: int = 0
    """Requests in flight; a running session does not expire."""


class SessionTable:
    """Sessions by id; used by one thread (the event loop)."""

    def __init__(
        self,
        new_cache: Callable[[], Cache],
        *,
        max_sessions: int,
        lease_seconds: float,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty table.

        Args:
            new_cache: makes a session's cache.
            max_sessions: most sessions at a time.
            lease_seconds: an idle session is kept this long.
            now: monotonic seconds.
        """
        if max_sessions < 1 or not lease_seconds > 0:
            raise ValueError(f"max_sessions={max_sessions} must be at least 1 and lease_seconds={lease_seconds} above 0")
        self._new_cache, self._now = new_cache, now
        self.max_sessions, self.lease_seconds = max_sessions, lease_seconds
        self._sessions: dict[str, Session] = {}

    def __len__(self) -> int:
        self._expire()
        return len(self._sessions)

    def open(self) -> Session:
        """Start a session under a fresh id.

        Raises:
            CloudBusyError: the table is full.
        """
        if len(self) >= self.max_sessions:
            raise CloudBusyError(
                f"all {self.max_sessions} sessions are in use; try again later (idle ones end after {self.lease_seconds:g} s), or raise --max-sessions"
            )
        session = Session(secrets.token_hex(16), self._new_cache(), self._now() + self.lease_seconds)
        self._sessions[session.session_id] = session
        return session

    def get(self, session_id: str) -> Session:
        """Find a session and renew its lease.

        Raises:
            SessionLostError: there is none (any more).
        """
        self._expire()
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

    def close(self, session_id: str) -> None:
        """Forget a session; nothing happens when there is none."""
        self._sessions.pop(session_id, None)

    def _expire(self) -> None:
        now = self._now()
        for session in [s for s in self._sessions.values() if s.expires_at <= now and not s.running]:
            del self._sessions[session.session_id]
