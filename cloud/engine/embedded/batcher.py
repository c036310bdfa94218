"""The one thread that owns the engine: it takes what waits, runs a batch, hands out results, measures.

What does not live here: who goes first (scheduler.py) and what the tokens mean to a session (verification.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cloud.engine.base import Engine, Work
from cloud.engine.embedded.scheduler import Waiting, pick_fcfs
from runtime.errors import CloudError, CloudUnavailableError

_log = logging.getLogger(__name__)


class Pace(Protocol):
    """How long another machine would take; the part of a cloud profile that emulation needs."""

    def forward_seconds(self, tokens: int) -> float:
        """Duration of a forward over so many tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a forward gave one job."""

    choices: Sequence[int]
    """The LLM's argmax ids after the wanted positions."""
    queue_ms: float
    """From when the job was put in the queue to the start of its batch."""
    compute_ms: float
    """Duration of the batch's forward."""
    compute_share_ms: float
    """This job's share of it, by tokens."""
    load: int
    """Jobs in the batch, this one included, and those waiting at its end."""


class Job(Protocol):
    """A request in the queue. All methods are called by the engine's thread."""

    @property
    def session_id(self) -> str:
        """Whose it is."""
        ...

    def work(self) -> Work | None:
        """Return what to run next; None when nobody waits for it any more."""
        ...

    def deliver(self, outcome: Outcome) -> bool:
        """Take a result; True puts the job back into the queue for more."""
        ...

    def fail(self, error: CloudError) -> None:
        """Take the reason why there will be no result."""
        ...


@dataclass(slots=True)
class _Queued:
    job: Job
    since: float


@dataclass(frozen=True, slots=True)
class _Ready:
    queued: _Queued
    work: Work


class Batcher:
    """Runs jobs on a thread of its own, from `start` to `stop`."""

    def __init__(
        self,
        engine: Engine,
        *,
        token_budget: int = 512,
        pace: Pace | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare the thread.

        Args:
            engine: called by this thread only.
            token_budget: most tokens in a batch of several jobs.
            pace: emulate a machine that takes this long; a batch never ends earlier.
            now: monotonic seconds.
            sleep: waits so many seconds.
        """
        if token_budget < 1:
            raise ValueError(f"token_budget={token_budget} must be at least 1")
        self._engine, self._token_budget, self._pace, self._now, self._sleep = engine, token_budget, pace, now, sleep
        self._queue: list[_Queued] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the batch in hand; what still waits fails as unavailable."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def put(self, job: Job) -> None:
        """Queue a job; it fails as unavailable when the batcher has stopped."""
        with self._changed:
            if not self._stopping:
                self._queue.append(_Queued(job, self._now()))
                self._changed.notify()
                return
        job.fail(_stopped())

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stopping)
                if self._stopping:
                    left, self._queue = self._queue, []
                    break
                batch = self._take()
            if batch:
                self._run(batch)
        for queued in left:
            queued.job.fail(_stopped())

    def _take(self) -> list[_Ready]:
        """Form a batch and drop abandoned jobs; the lock is held."""
        ready = [_Ready(queued, work) for queued in self._queue if (work := queued.job.work()) is not None]
        waiting = [Waiting(each.queued.job.session_id, len(each.work.tokens)) for each in ready]
        picked = set(pick_fcfs(waiting, self._token_budget))
        self._queue = [each.queued for i, each in enumerate(ready) if i not in picked]
        return [each for i, each in enumerate(ready) if i in picked]

    def _run(self, batch: list[_Ready]) -> None:
        began = self._now()
        tokens = sum(len(each.work.tokens) for each in batch)
        try:
            results = self._engine.forward([each.work for each in batch])
        except Exception as error:  # whatever an engine raises ends its batch, not the server
            _log.exception("the engine failed on a batch of %d requests, %d tokens", len(batch), tokens)
            failed = CloudError(f"the engine failed on a batch of {len(batch)} requests, {tokens} tokens: {error}")
            for each in batch:
                each.queued.job.fail(failed)
            return
        if self._pace is not None:
            self._sleep(max(0.0, began + self._pace.forward_seconds(tokens) - self._now()))
        ended = self._now()
        compute_ms = (ended - began) * 1e3
        with self._changed:
            load = len(batch) + len(self._queue)
        again = []
        for each, choices in zip(batch, results, strict=True):
            share_ms = compute_ms * len(each.work.tokens) / tokens
            outcome = Outcome(choices, (began - each.queued.since) * 1e3, compute_ms, share_ms, load)
            if each.queued.job.deliver(outcome):
                again.append(_Queued(each.queued.job, ended))
        with self._changed:
            self._queue += again


def _stopped() -> CloudUnavailableError:
    return CloudUnavailableError("the verifier is shutting down; try again when it is back")
