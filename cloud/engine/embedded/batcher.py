"""The one thread that runs forwards: it takes what waits, runs a batch, hands out results, measures.

What does not live here: who goes first (scheduler.py) and what the tokens mean to a session (jobs.py, engine.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cloud.engine.embedded.forward import Forward, Rows, Work
from cloud.engine.embedded.pace import Pace
from cloud.engine.embedded.scheduler import Waiting, pick_fcfs
from cloud.log import fields
from runtime.errors import CloudError, CloudUnavailableError, SettingError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a forward gave one job."""

    rows: Rows
    queue_ms: float
    """From when the job was put in the queue to the start of its batch."""
    compute_ms: float
    """Duration of the batch's forward."""
    compute_share_ms: float
    """This job's share of it, by tokens."""
    load: int
    """Jobs in the batch, this one included, and those waiting at its end."""


class Job(Protocol):
    """A request in the queue."""

    def work(self) -> Work | None:
        """Return what to run next; None when nobody waits for it any more. Called by the engine's thread."""
        ...

    def deliver(self, outcome: Outcome) -> bool:
        """Take a result; True puts the job back into the queue for more. Called by the engine's thread."""
        ...

    def fail(self, error: CloudError) -> None:
        """Take the reason why there will be no (more) results; called by any thread, perhaps more than once."""
        ...


@dataclass(frozen=True, slots=True)
class _Queued:
    job: Job
    since: float
    due: float
    """Not run earlier; on the batcher's clock, as `since`."""


@dataclass(frozen=True, slots=True)
class _Ready:
    queued: _Queued
    work: Work


class Batcher:
    """Runs jobs on a thread of its own, from `start` to `stop`.

    Whatever a forward or the handing out of its results raises fails the jobs it concerns and nothing else. Whatever
    else ends the thread fails all jobs, those to come included, as unavailable.
    """

    def __init__(
        self,
        forward: Forward,
        *,
        token_budget: int,
        died: Callable[[CloudUnavailableError], None],
        pace: Pace | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare the thread.

        Args:
            forward: run by this thread only.
            token_budget: most tokens in a batch of several jobs.
            died: told, by the thread, why it ends without having been stopped; all jobs have failed by then.
            pace: emulate a machine that takes this long; a batch never ends earlier.
            now: monotonic seconds.
            sleep: waits so many seconds.
        """
        if token_budget < 1:
            raise SettingError(f"token_budget={token_budget} must be at least 1")
        self._forward, self._token_budget, self._pace, self._died = forward, token_budget, pace, died
        self._now, self._sleep = now, sleep
        self._queue: list[_Queued] = []
        self._over: str | None = None  # why no job is taken any more
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._live, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Fail what waits as unavailable, and end the thread after the batch in hand."""
        self._end("the verifier is shutting down; try again when it is back")
        if self._thread.ident is not None:
            self._thread.join()

    def put(self, job: Job, *, wait_seconds: float = 0.0) -> None:
        """Queue a job; it fails as unavailable when the batcher has ended.

        Args:
            job: what to run.
            wait_seconds: it is not run earlier than so long from now; others are, meanwhile.
        """
        now = self._now()
        self._enqueue([_Queued(job, now, now + wait_seconds)])

    def check_alive(self) -> None:
        """Do nothing while jobs are taken.

        Raises:
            CloudUnavailableError: the batcher has ended.
        """
        if self._over is not None:
            raise CloudUnavailableError(self._over)

    def _enqueue(self, jobs: Sequence[_Queued]) -> None:
        with self._changed:
            over = self._over
            if over is None:
                self._queue += jobs
                self._changed.notify()
        if over is not None:
            _fail((each.job for each in jobs), CloudUnavailableError(over))

    def _end(self, why: str) -> None:
        with self._changed:
            self._over = self._over or why
            left, self._queue = self._queue, []
            self._changed.notify()
        _fail((each.job for each in left), CloudUnavailableError(self._over))

    def _live(self) -> None:
        batch: list[_Ready] = []
        try:
            while self._over is None:
                batch = self._next_batch()
                if batch:
                    self._run(batch)
                batch = []  # while it waits it keeps nobody's cache alive
        except BaseException as error:  # nothing may be left waiting for a thread that is gone
            _log.exception("the engine's thread died")
            why = CloudUnavailableError(f"the engine died of {error!r}; restart the verifier, its log says more")
            self._end(str(why))
            _fail((each.queued.job for each in batch), why)
            self._died(why)

    def _next_batch(self) -> list[_Ready]:
        """Wait until jobs are due and form a batch; drop abandoned ones. Empty when all were, or when the batcher has ended."""
        with self._changed:
            while self._over is None and (seconds := self._until_due()) != 0.0:
                self._changed.wait(seconds)
            now = self._now()
            ready = [_Ready(queued, work) for queued in self._queue if (work := queued.job.work()) is not None]
            due = [i for i, each in enumerate(ready) if each.queued.due <= now]
            waiting = [Waiting(id(ready[i].work.cache), len(ready[i].work.tokens)) for i in due]
            picked = {due[i] for i in pick_fcfs(waiting, self._token_budget)}
            self._queue = [each.queued for i, each in enumerate(ready) if i not in picked]
            return [each for i, each in enumerate(ready) if i in picked]

    def _until_due(self) -> float | None:
        """Seconds until the first job may run; None when there is none."""
        if not self._queue:
            return None
        seconds = min(each.due for each in self._queue) - self._now()
        return min(max(0.0, seconds), threading.TIMEOUT_MAX)

    def _run(self, batch: list[_Ready]) -> None:
        try:
            outcomes = self._outcomes(batch)
        except Exception as error:  # whatever a forward raises ends its batch, not the engine
            tokens = sum(len(each.work.tokens) for each in batch)
            _log.exception("the engine failed on a batch", extra=fields(requests=len(batch), tokens=tokens))
            failed = CloudError(f"the engine failed on a batch of {len(batch)} requests, {tokens} tokens: {error}")
            _fail((each.queued.job for each in batch), failed)
            return
        ended = self._now()
        again = [each.queued.job for each, outcome in zip(batch, outcomes, strict=True) if _deliver(each.queued.job, outcome)]
        self._enqueue([_Queued(job, ended, ended) for job in again])

    def _outcomes(self, batch: list[_Ready]) -> list[Outcome]:
        began = self._now()
        results = self._forward.run([each.work for each in batch])
        if len(results) != len(batch):
            raise RuntimeError(f"the forward gave {len(results)} results")
        tokens = sum(len(each.work.tokens) for each in batch)
        if self._pace is not None:
            self._sleep(max(0.0, began + self._pace.forward_seconds(tokens) - self._now()))
        compute_ms = (self._now() - began) * 1e3
        with self._changed:
            load = len(batch) + len(self._queue)
        return [
            Outcome(
                rows,
                queue_ms=(began - each.queued.since) * 1e3,
                compute_ms=compute_ms,
                compute_share_ms=compute_ms * len(each.work.tokens) / tokens,
                load=load,
            )
            for each, rows in zip(batch, results, strict=True)
        ]


def _deliver(job: Job, outcome: Outcome) -> bool:
    try:
        return job.deliver(outcome)
    except Exception as error:  # the other jobs of the batch still get their results
        _log.exception("a result could not be handed out")
        _fail([job], CloudError(f"the engine failed to make a verdict of a forward's result: {error}"))
        return False


def _fail(jobs: Iterable[Job], error: CloudError) -> None:
    for job in jobs:
        try:
            # One each: an error that was raised keeps the frames it passed through, with another session's cache in them.
            job.fail(type(error)(*error.args))
        except Exception:  # nobody is left to tell, as when its event loop has closed; the others still are
            _log.exception("a failure could not be handed out")
