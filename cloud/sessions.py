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
from itertools import chain
from typing import Any

from cloud.cost import Cost
from cloud.identity import Client
from cloud.kept import Place
from cloud.log import fields
from cloud.shared import Shared
from runtime.errors import CloudBusyError, CloudRejectedError, SessionLostError
from runtime.settings import above, shown, whole
from runtime.wire.sizes import KEY_CHARACTERS, SESSION_ID_CHARACTERS

MOST_SESSIONS = 100_000
"""Largest `max_sessions`."""
_SWAPPED_AFTER_SECONDS = 5.0
"""How long a session was idle that is ended for an account that holds only one less than its own."""
_RUNNING_SECONDS = 1.0  # when to try again where all sessions run
_SHORTEST_HINT_SECONDS = 0.05
_SESSION_ID = re.compile(f"[0-9a-f]{{{SESSION_ID_CHARACTERS}}}")
_KEY = re.compile(f"[0-9a-f]{{{KEY_CHARACTERS}}}")
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Asked:
    """A numbered request of a session."""

    seq: int
    digest: bytes
    """Of what it asked."""
    answer: Shared[Any] | None
    """Or its running; a repeat gets the same. None when it was refused, or is forgotten."""
    place: Place | None = None
    """The room that the answer takes; None where it takes none to speak of."""
    forgotten: bool = False
    """The answer was made and is not kept any more."""

    def leave(self) -> None:
        """The session is asked about it no more."""
        if self.place is not None:
            self.place.leave()


@dataclass(slots=True, eq=False)
class Session:
    """One device's answer in progress."""

    session_id: str
    owner: Client
    """Nobody else finds it."""
    idle_since: float
    """On the table's clock, seconds: when it was opened, or answered last."""
    expires_at: float
    """Likewise."""
    used: bool = False
    """Whether a request of it was ever answered."""
    asked: list[Asked] = field(default_factory=list)
    """The last requests, without gaps; those of which nothing came any more are the last of them (numbered.py)."""
    length: int = 0
    """Positions that its chunks have filled, or will, as far as none of them came to nothing (forward.py)."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the work that is in the engine, also while that ends."""
    running: int = 0
    """Work of it that is not over; a running session neither expires nor makes room for others."""
    ended: Callable[[], object] | None = None
    """Called when it leaves the table."""
    opened_at: float = 0.0
    """On the table's clock, seconds."""
    cost: Cost = field(default_factory=Cost)
    """What its work has cost up to now."""

    @property
    def seq(self) -> int:
        """Number of the last request; 0 before the first."""
        return self.asked[-1].seq if self.asked else 0


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

    Nobody is locked out of a full table. Who opens a session while somebody else holds more, gets the place of the idlest
    session of who holds most, those first that were never used; where that would only swap the two (one more than the
    newcomer), the session must have been idle for some seconds. Running ones stay. Whoever lost a session opens another.

    A session that leaves the table, whichever way, is closed in the engine by a task of the table's own, so that no
    caller who goes away can keep it from being closed, and its work is dropped. Until that task has ended nobody gets the
    place.
    """

    def __init__(
        self,
        close: Callable[[str], Coroutine[Any, Any, None]],
        *,
        max_sessions: int,
        lease_seconds: float,
        unused_seconds: float | None = None,
        account_sessions: int = MOST_SESSIONS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an empty table.

        Args:
            close: closes a session in the engine, by its id.
            max_sessions: most sessions at a time.
            lease_seconds: an idle session is kept this long.
            unused_seconds: one that was never used is kept this long, where that is shorter; None is the lease.
            account_sessions: most sessions of one account.
            now: monotonic seconds.

        Raises:
            SettingError: a size is outside its range.
        """
        whole("max_sessions", max_sessions, 1, MOST_SESSIONS)
        whole("account_sessions", account_sessions, 1, MOST_SESSIONS)
        above("lease_seconds", lease_seconds, 0)
        self._close, self._now = close, now
        self.max_sessions, self.lease_seconds = max_sessions, lease_seconds
        self._unused_seconds = lease_seconds if unused_seconds is None else min(unused_seconds, lease_seconds)
        self._account_sessions = account_sessions
        # Each is in one of the first two, by id, and the idlest comes first.
        self._unused: dict[str, Session] = {}
        self._used: dict[str, Session] = {}
        self._counts: dict[str, int] = {}  # sessions of each account that has any
        self._closing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        self.sweep()
        return self._size

    @property
    def _size(self) -> int:
        return len(self._unused) + len(self._used)

    async def open(self, owner: Client, ended: Callable[[], object] | None = None) -> Session:
        """Take a place under a fresh id.

        Args:
            owner: to whom it belongs.
            ended: called when the session leaves the table again, whichever way.

        Raises:
            CloudBusyError: there is no place for this account now.

        Cancellation: no place is taken.
        """
        self.sweep()
        self._check_account(owner.account)
        while self._size + len(self._closing) >= self.max_sessions:
            if not self._closing:
                self._make_room(owner.account)
            await asyncio.wait(self._closing, return_when=asyncio.FIRST_COMPLETED)
            self._check_account(owner.account)
        now = self._now()
        session_id, expires_at = secrets.token_hex(SESSION_ID_CHARACTERS // 2), now + self._unused_seconds
        session = Session(session_id, owner, now, expires_at, ended=ended, opened_at=now)
        self._unused[session.session_id] = session
        self._counts[owner.account] = self._counts.get(owner.account, 0) + 1
        return session

    def get(self, session_id: str, name: str) -> Session:
        """Find a session; that alone does not renew its lease.

        Args:
            session_id: its id.
            name: of its owner.

        Raises:
            SessionLostError: there is none (any more), or it is another's.
        """
        self.sweep()
        session = self._find(session_id)
        if session is None or session.owner.name != name:
            raise SessionLostError(
                f"no session {session_id!r}: it ended or its lease expired; open a new one and send the whole history"
            )
        return session

    def renew(self, session: Session, *, used: bool) -> None:
        """Start the lease again, if the session is still there.

        Args:
            session: whose.
            used: it has answered a check; else only its opening was asked for again.
        """
        if self._unused.pop(session.session_id, None) or self._used.pop(session.session_id, None):
            session.used |= used
            now = session.idle_since = self._now()
            session.expires_at = now + (self.lease_seconds if session.used else self._unused_seconds)
            (self._used if session.used else self._unused)[session.session_id] = session

    async def close(self, session_id: str, name: str) -> Cost:
        """End a session and wait until the engine has closed it; return what it cost, nothing when that owner's name has none such.

        Cancellation: the session ends all the same.
        """
        session = self._find(session_id)
        if session is None or session.owner.name != name:
            return Cost()
        if (closing := self.remove(session, "closed")) is not None:
            await asyncio.wait([closing])
        return session.cost

    def remove(self, session: Session, how: str | None) -> asyncio.Task[None] | None:
        """Begin to end a session and all its work; return what closes it in the engine, None when it has left before.

        Args:
            session: that is to end.
            how: it ends, in a word or a few, for the log; None logs nothing.
        """
        if not (self._unused.pop(session.session_id, None) or self._used.pop(session.session_id, None)):
            return None
        account = session.owner.account
        self._counts[account] -= 1
        if not self._counts[account]:
            del self._counts[account]
        if session.ended is not None:
            session.ended()
        for each in session.asked:
            if each.answer is not None:
                each.answer.drop()
            each.leave()
        task = asyncio.get_running_loop().create_task(self._close(session.session_id))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        if how is not None:
            who = {"session": session.session_id, "account": session.owner.account, "how": how}
            seconds = round(self._now() - session.opened_at, 3)
            _log.info("session ended", extra=fields(**who, **session.cost.told(), open_seconds=seconds))
        return task

    def sweep(self) -> int:
        """Begin to end the sessions whose lease is over; return how many."""
        now, over = self._now(), []
        for sessions in (self._unused, self._used):
            for session in sessions.values():  # the first to end comes first
                if session.expires_at > now:
                    break
                if not session.running:
                    over.append(session)
        for session in over:
            self.remove(session, "lease over" if session.used else "never used")
        return len(over)

    async def end(self) -> int:
        """End all sessions, also those that run, and wait until the engine has closed them; return how many there were."""
        left = [*self._unused.values(), *self._used.values()]
        for session in left:
            self.remove(session, "stopped")
        await self.closed()
        return len(left)

    async def closed(self) -> None:
        """Wait until the engine has closed what has ended."""
        while self._closing:
            await asyncio.wait(self._closing)

    def _find(self, session_id: str) -> Session | None:
        return self._unused.get(session_id) or self._used.get(session_id)

    def _check_account(self, account: str) -> None:
        if (held := self._counts.get(account, 0)) >= self._account_sessions:
            raise CloudBusyError(
                f"this account has {held} sessions, of at most {self._account_sessions}; close some, or raise --account-sessions",
                self._until_one_ends(account),
            )

    def _make_room(self, account: str) -> None:
        """End a session for a newcomer; see the class.

        Raises:
            CloudBusyError: none may be ended.
        """
        mine, idle_before = self._counts.get(account, 0), self._now() - _SWAPPED_AFTER_SECONDS
        for count in sorted({each for each in self._counts.values() if each > mine}, reverse=True):
            for session in chain(self._unused.values(), self._used.values()):
                may_end = count > mine + 1 or session.idle_since <= idle_before
                if may_end and not session.running and self._counts[session.owner.account] == count:
                    self.remove(session, "made room")
                    return
        raise CloudBusyError(
            f"all {self.max_sessions} sessions are in use; try again later (idle ones end after {self.lease_seconds:g} s), or raise --max-sessions",
            self._until_one_ends() if mine else min(_SWAPPED_AFTER_SECONDS, self._until_one_ends()),
        )

    def _until_one_ends(self, account: str | None = None) -> float:
        """Seconds until the lease of an idle session ends; those that run may do so at any time."""
        firsts = [
            next((s for s in sessions.values() if not s.running and account in (None, s.owner.account)), None)
            for sessions in (self._unused, self._used)
        ]
        ends = [each.expires_at for each in firsts if each is not None]
        return max(_SHORTEST_HINT_SECONDS, min(ends) - self._now()) if ends else _RUNNING_SECONDS
