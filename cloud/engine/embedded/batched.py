"""What the embedded engines share: the batcher and its end, sessions and their tables.

What does not live here: what a session is asked (engine.py: drafts and streams; middle.py: chunks of hidden states).
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any, Generic, TypeVar

from cloud.engine.base import EngineInfo, EngineUsage, Iteration
from cloud.engine.embedded.batcher import Batcher
from cloud.engine.embedded.forward import Forward, Inputs
from cloud.engine.embedded.jobs import Awaited, Job
from cloud.engine.embedded.kv_pool import Table
from cloud.engine.embedded.pace import Arrivals, Pace
from runtime.errors import CloudBusyError, CloudUnavailableError, SessionLostError
from runtime.model.paged_kv import BLOCK_TOKENS
from runtime.policies import DEFAULT_POLICY
from runtime.scheduling import TOKEN_BUDGET, Scheduler

_Result = TypeVar("_Result")
_Settled = TypeVar("_Settled")


@dataclass(slots=True, eq=False)
class Seat:
    """A session of an engine."""

    table: Table
    account: str
    job: Job[Any, Any] | None
    """That is in flight."""


_Seat = TypeVar("_Seat", bound=Seat)


class BatchedEngine(ABC, Generic[_Seat, Inputs, _Result]):
    """Implements what all embedded engines do alike of :class:`cloud.engine.base.Engine`.

    Who owns what; one owner each:

    | resource | owner | borrowed by | freed |
    |---|---|---|---|
    | weights, keys and values | the forward | | with this object |
    | what is known of a session | the session, on the event loop | | `close`, `stop` |
    | table of a session | the session | its job | `close` |
    | table of a stream | its job | | iterator closed or at its end |
    | blocks | the tables that hold them (kv_pool.py), on the engine's thread | works, in a forward | with the table, or for others who need room |
    | jobs that wait | the batcher | | run, dropped by who waited, or failed by `stop` |
    | results of a forward | its batch | jobs, while they make use of them | all results are handed out |
    | the thread | the batcher | | `stop` |
    """

    def __init__(
        self,
        info: EngineInfo,
        forward: Forward[Inputs, _Result],
        *,
        policy: str = DEFAULT_POLICY,
        token_budget: int = TOKEN_BUDGET,
        shares_prefixes: str = "none",
        pace: Pace | None = None,
        pace_seed: int = 0,
    ) -> None:
        """Prepare.

        Args:
            info: what the forward runs.
            forward: the LLM; used by this engine only.
            policy: who goes first; a name of `runtime.policies.POLICIES`.
            token_budget: most tokens in a forward.
            shares_prefixes: whose sequences share what they begin with alike: those of an `account`, of `all`, or of `none`.
            pace: emulate the durations of another machine: its forwards, and the wait and the load that a request meets.
            pace_seed: of the generator that waits and loads are drawn from, one number a request, in order of arrival.
        """
        self._info, self._forward, self._shares_prefixes = info, forward, shares_prefixes
        self._arrivals = Arrivals(pace, pace_seed)
        self._batcher = Batcher(forward, Scheduler(policy, token_budget), died=self._on_death, pace=pace)
        self._sessions: dict[str, _Seat] = {}
        self._sequences = count()
        self._loop: asyncio.AbstractEventLoop
        self._death: asyncio.Future[CloudUnavailableError]

    @abstractmethod
    def _seated(self, table: Table, account: str) -> _Seat:
        """Make a session that holds nothing."""

    @property
    def info(self) -> EngineInfo:
        """See :class:`cloud.engine.base.Engine`."""
        return self._info

    @property
    def pid(self) -> int:
        """See :class:`cloud.engine.base.Engine`."""
        return os.getpid()

    @property
    def usage(self) -> EngineUsage:
        """See :class:`cloud.engine.base.Engine`."""
        return self._batcher.usage

    def watch(self, watcher: Callable[[Iteration], None]) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._batcher.watch(watcher)

    async def start(self) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._loop = asyncio.get_running_loop()
        self._death = self._loop.create_future()
        self._batcher.start()

    async def stop(self) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._sessions.clear()
        await asyncio.to_thread(self._batcher.stop)

    async def failed(self) -> CloudUnavailableError:
        """See :class:`cloud.engine.base.Engine`."""
        return await asyncio.shield(self._death)

    async def open(self, session_id: str, account: str = "") -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._batcher.check_alive()
        if session_id in self._sessions:
            raise ValueError(f"session {session_id!r} is open already")
        self._sessions[session_id] = self._seated(self._new_table(account), account)

    async def close(self, session_id: str) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        session = self._sessions.pop(session_id, None)
        if session is not None:
            if session.job is not None:
                session.job.fail(lost(session_id))
                self._batcher.drop(session.job)
            self._batcher.release(session.table)

    async def freed(self) -> None:
        """Wait until the blocks are free of all that was given up before: until the forward in hand has ended."""
        done = asyncio.Event()
        self._batcher.when_done(partial(self._loop.call_soon_threadsafe, done.set))
        await done.wait()

    def check_integrity(self) -> None:
        """Do nothing while every block of the KV pool is accounted for; for an engine whose thread rests.

        Raises:
            AssertionError: a block is lost, or held by who should not.
        """
        self._batcher.memory.check_integrity()

    async def _settled(self, session: _Seat, job: Awaited[Inputs, _Result, _Settled], wait_seconds: float) -> _Settled:
        """Run a job of a session, and return its result; who goes away before drops it."""
        session.job = job
        self._batcher.put(job, wait_seconds=wait_seconds)
        try:
            return await job.result
        finally:
            session.job = None
            self._batcher.drop(job)

    def _new_table(self, account: str) -> Table:
        salts = {"all": "all", "account": f"account {account}", "none": f"sequence {next(self._sequences)}"}
        return Table(salts[self._shares_prefixes])

    def _check_size(self, tokens: int) -> None:
        most = self._forward.blocks * BLOCK_TOKENS
        if tokens > most:
            raise CloudBusyError(
                f"{tokens} tokens do not fit into the verifier's cache of {most}; shorten the prompt, or serve with a larger --kv-tokens"
            )

    def _holding(self, session_id: str, prefix_length: int) -> _Seat:
        """Find a session that holds so many tokens.

        Raises:
            SessionLostError: there is none.
            CloudUnavailableError: stopped or dead.
        """
        session = self._sessions.get(session_id)
        if session is None:
            self._batcher.check_alive()
            raise lost(session_id)
        held = self._held(session)
        if prefix_length > held:
            raise SessionLostError(
                f"session {session_id!r} holds {held} tokens, not the {prefix_length} that the request builds on; open a new one and send the whole history"
            )
        return session

    @abstractmethod
    def _held(self, session: _Seat) -> int:
        """Tokens that a session holds."""

    def _on_death(self, why: CloudUnavailableError) -> None:
        self._loop.call_soon_threadsafe(self._death.set_result, why)


def lost(session_id: str) -> SessionLostError:
    """The error of who asks for a session that has ended."""
    return SessionLostError(f"no session {session_id!r}: it ended; open a new one and send the whole history")


def deadline(slack_seconds: float | None) -> float:
    """When a slack from now is over, on the batcher's clock; infinity is not known."""
    return math.inf if slack_seconds is None else time.monotonic() + slack_seconds
