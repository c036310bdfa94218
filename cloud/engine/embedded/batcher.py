"""The one thread that runs forwards: it plans a batch of what waits, runs it, hands out results, measures.

What does not live here: who goes first (runtime/policies.py), who has which blocks (memory.py, kv_pool.py), and what the tokens mean
to a session (jobs.py, engine.py).
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Generic, TypeVar

from cloud.engine.base import EngineUsage, Iteration
from cloud.engine.embedded.forward import Forward, Inputs, Work
from cloud.engine.embedded.jobs import Job, Outcome
from cloud.engine.embedded.kv_pool import Table
from cloud.engine.embedded.memory import Memory
from cloud.engine.embedded.pace import Pace
from cloud.log import fields
from runtime.errors import CloudError, CloudUnavailableError, SessionLostError
from runtime.policies import Request
from runtime.scheduling import Scheduler, Slice

_Result = TypeVar("_Result")
_EVICTED = "the session had to yield its keys and values to others; open a new one and send all of it"
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Queued(Generic[Inputs, _Result]):
    """A job that is there, and what its next result has cost so far."""

    job: Job[Inputs, _Result]
    since: float
    """When it was put, or had its result before; on the batcher's clock."""
    request: Request
    """Scheduled once it may be run."""
    compute: float = 0.0
    """Seconds."""
    share: float = 0.0
    """Seconds."""
    processed: int = 0
    """Tokens."""
    results: list[_Result] = field(default_factory=list)
    """Of those of its wanted positions that were run."""


class Batcher(Generic[Inputs, _Result]):
    """Runs jobs on a thread of its own, from `start` to `stop`.

    A forward that fails is run again by halves, so that only those fail that cannot be run. What the handing out of a result raises
    fails its job and nothing else. Whatever else ends the thread fails all jobs, those to come included, as unavailable.
    """

    def __init__(
        self,
        forward: Forward[Inputs, _Result],
        scheduler: Scheduler,
        *,
        died: Callable[[CloudUnavailableError], None],
        pace: Pace | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Prepare the thread.

        Args:
            forward: run by this thread only.
            scheduler: with nobody there; this thread's from now on, as is all memory of the forward's.
            died: told, by the thread, why it ends without having been stopped; all jobs have failed by then.
            pace: emulate a machine that takes this long; a forward never ends earlier.
            now: monotonic seconds.
            sleep: waits so many seconds.
        """
        self._forward, self._scheduler, self._pace, self._died = forward, scheduler, pace, died
        self._now, self._sleep = now, sleep
        self.memory = Memory(forward.blocks)
        """The thread's; others may read its figures."""
        self._watchers: list[Callable[[Iteration], None]] = []
        self._there: dict[Job[Inputs, _Result], _Queued[Inputs, _Result]] = {}  # that will have a result, or fail
        self._asked: list[Callable[[], object]] = []  # what the thread does before it plans
        self._in_hand: frozenset[Job[Inputs, _Result]] = frozenset()
        self._over: str | None = None  # why no job is taken any more
        self._changed = threading.Condition()  # guards the four above
        self._requests: dict[Request, _Queued[Inputs, _Result]] = {}
        self._undue: list[tuple[float, int, _Queued[Inputs, _Result]]] = []  # a heap of those that may be run later
        self._numbers = count()
        self._thread = threading.Thread(target=self._live, name="engine", daemon=True)

    # ------------------------------------------------------------ called by any thread

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Fail what waits as unavailable, and end the thread after the forward in hand."""
        self._end("the verifier is shutting down; try again when it is back")
        if self._thread.ident is not None:
            self._thread.join()
        self._do_asked()
        self.memory.clear()

    def watch(self, watcher: Callable[[Iteration], None]) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._watchers.append(watcher)

    @property
    def usage(self) -> EngineUsage:
        """See :class:`cloud.engine.base.Engine`."""
        pool = self.memory.pool
        return EngineUsage(len(self._there), pool.blocks, pool.used, pool.cached, self.memory.evicted)

    def put(self, job: Job[Inputs, _Result], *, wait_seconds: float = 0.0) -> None:
        """Queue a job; it fails as unavailable when the batcher has ended.

        Args:
            job: what to run.
            wait_seconds: it is not run earlier than so long from now; others are, meanwhile.
        """
        now = self._now()
        queued: _Queued[Inputs, _Result] = _Queued(
            job, now, Request(now, 1, check=job.check, account=job.account, deadline=job.deadline)
        )
        with self._changed:
            over = self._over
            if over is None:
                self._there[job] = queued
                self._ask(lambda: heapq.heappush(self._undue, (now + wait_seconds, next(self._numbers), queued)))
        if over is not None:
            _fail([job], CloudUnavailableError(over))

    def drop(self, job: Job[Inputs, _Result]) -> None:
        """Forget a job that nobody waits for; what it holds in a forward in hand is freed when that has ended."""
        with self._changed:
            if (queued := self._there.pop(job, None)) is not None:
                self._ask(lambda: self._leaves(queued))

    def release(self, table: Table) -> None:
        """Free a sequence's blocks, once the forward in hand has ended; its job, if any, has been dropped."""
        with self._changed:
            self._ask(lambda: self.memory.frees(table))

    def when_done(self, then: Callable[[], object]) -> None:
        """Call back, on the engine's thread, when what was dropped and released before is free; at once if that thread has ended."""
        with self._changed:
            if self._over is None:
                self._ask(then)
                return
        then()

    def check_alive(self) -> None:
        """Do nothing while jobs are taken.

        Raises:
            CloudUnavailableError: the batcher has ended.
        """
        if self._over is not None:
            raise CloudUnavailableError(self._over)

    def _ask(self, what: Callable[[], object]) -> None:
        self._asked.append(what)
        self._changed.notify()

    def _end(self, why: str) -> None:
        with self._changed:
            self._over = self._over or why
            left = [job for job in self._there if job not in self._in_hand]
            for job in left:
                del self._there[job]
            self._changed.notify()
        _fail(left, CloudUnavailableError(self._over))

    # ------------------------------------------------------------ the thread

    def _live(self) -> None:
        try:
            while self._over is None:
                if slices := self._next_batch():
                    self._run(slices)
                self._in_hand = frozenset()
        except BaseException as error:  # nothing may be left waiting for a thread that is gone
            _log.exception("the engine's thread died")
            why = CloudUnavailableError(f"the engine died of {error!r}; restart the verifier, its log says more")
            self._in_hand = frozenset()
            self._end(str(why))
            self._do_asked()
            self._died(why)
        else:
            self._end(self._over)  # streams that were in hand
            self._do_asked()

    def _do_asked(self) -> None:
        with self._changed:
            asked, self._asked = self._asked, []
        for each in asked:
            each()

    def _next_batch(self) -> list[Slice]:
        """Wait until jobs are due, and plan a forward; empty when there is none to run after all, or when the batcher has ended."""
        with self._changed:
            while self._over is None and not self._asked and not self._requests and (seconds := self._until_due()) != 0.0:
                self._changed.wait(seconds)
        self._do_asked()
        now = self._now()
        while self._undue and self._undue[0][0] <= now:
            self._comes(heapq.heappop(self._undue)[2], now)
        if not self._requests or self._over is not None:
            return []
        for queued in list(self._requests.values()):
            if queued.request.left != queued.job.length - queued.job.table.length:
                self._prepare(queued)  # it lost its blocks
        if not self._requests:
            return []
        self.memory.begins_plan()
        slices = self._scheduler.plan(now, self._has_room)
        if not slices:
            raise RuntimeError(f"none of {len(self._requests)} requests can be run")
        with self._changed:
            self._in_hand = frozenset(self._requests[each.request].job for each in slices)
        return slices

    def _until_due(self) -> float | None:
        """Seconds until the first job may run; None when there is none."""
        if not self._undue:
            return None
        return min(max(0.0, self._undue[0][0] - self._now()), threading.TIMEOUT_MAX)

    def _comes(self, queued: _Queued[Inputs, _Result], now: float) -> None:
        """A job may be run from now on."""
        job, request = queued.job, queued.request
        if job not in self._there:
            return  # it was dropped while it waited
        request.arrived = now
        if not self._prepare(queued):
            return
        self._scheduler.add(request)
        self._requests[request] = queued
        self.memory.takes_turn(job.table, request.number)

    def _prepare(self, queued: _Queued[Inputs, _Result]) -> bool:
        """Keep of a job's table what holds, find what others have read of it, and count what is left to run.

        Returns:
            Whether it can be run; else it has failed, as what is before its inputs is not there any more.
        """
        job, pool = queued.job, self.memory.pool
        pool.truncate(job.table, job.kept)
        if not job.table.length:
            pool.drop(job.table)
            pool.adopt(job.table, job.tokens[: len(job.tokens) - job.tail + 1])
        if job.table.length < job.first:
            self._ends(queued, SessionLostError(_EVICTED))
            return False
        queued.results.clear()
        queued.request.tail, queued.request.left = job.tail, job.length - job.table.length
        return True

    def _leaves(self, queued: _Queued[Inputs, _Result]) -> None:
        """A job is over; its table rests until its sequence has another one, or is over itself."""
        if self._requests.pop(queued.request, None) is not None:
            self._scheduler.remove(queued.request)
            self.memory.rests(queued.job.table)

    def _has_room(self, request: Request, tokens: int) -> bool:
        job = self._requests[request].job
        if request.left != job.length - job.table.length:
            return False  # it has just lost its blocks to who is before it
        return self.memory.has_room(job.table, job.table.length + tokens)

    def _run(self, slices: Sequence[Slice]) -> None:
        batch = [self._requests[each.request] for each in slices]
        works = [_work(queued.job, each) for queued, each in zip(batch, slices, strict=True)]
        began = self._now()
        results: list[_Result | CloudError] = list(self._results(works))
        tokens = sum(each.tokens for each in slices)
        if self._pace is not None:
            try:
                self._sleep(max(0.0, began + self._pace.forward_seconds(tokens) - self._now()))
            except Exception as error:  # a profile that makes no sense ends nothing but what it was asked for
                _log.exception("a pace failed", extra=fields(tokens=tokens))
                results = [CloudError(f"the pace of a forward over {tokens} tokens cannot be kept: {error}")] * len(works)
        ended, there = self._now(), len(self._there)
        self._scheduler.ran(slices)
        said = _told(slices, ended - began, there - len(slices))
        for queued, each, work, result in zip(batch, slices, works, results, strict=True):
            if isinstance(result, CloudError):
                self._ends(queued, result)
                continue
            queued.compute += ended - began
            queued.share += (ended - began) * each.tokens / tokens
            queued.processed += each.tokens
            if work.wanted:
                queued.results.append(result)
            self._wrote(queued.job, each.tokens)
            if each.request.left == 0:
                self._deliver(queued, ended, there)
        for watcher in self._watchers:
            watcher(said)

    def _results(self, works: Sequence[Work[Inputs]]) -> Iterator[_Result | CloudError]:
        """Run a batch; where that fails each of its halves is run, so that one work cannot fail the others."""
        try:
            results = self._forward.run(works)
            if len(results) != len(works):
                raise RuntimeError(f"the forward gave {len(results)} results")
            yield from results
        except Exception as error:  # whatever a forward raises ends no more than what it runs
            tokens = sum(len(work.inputs) for work in works)
            _log.exception("a forward failed", extra=fields(requests=len(works), tokens=tokens))
            if len(works) == 1:
                yield CloudError(f"the engine failed on a request, {tokens} tokens in this forward: {error}")
            else:
                half = len(works) // 2
                yield from self._results(works[:half])
                yield from self._results(works[half:])

    def _wrote(self, job: Job[Inputs, _Result], tokens: int) -> None:
        """Take note of what a forward has filled; of a draft nothing is shown to others."""
        pool = self.memory.pool
        pool.wrote(job.table, job.table.length + tokens)
        pool.settle(job.table, job.tokens[: len(job.tokens) - job.tail + 1])

    def _deliver(self, queued: _Queued[Inputs, _Result], ended: float, there: int) -> None:
        job, pool = queued.job, self.memory.pool
        if job not in self._there:
            return  # it was dropped meanwhile
        outcome = Outcome(
            tuple(queued.results),
            queue_ms=(ended - queued.since - queued.compute) * 1e3,
            compute_ms=queued.compute * 1e3,
            compute_share_ms=queued.share * 1e3,
            processed_tokens=queued.processed,
            load=there,
        )
        try:
            more = job.deliver(outcome)
        except Exception as error:  # the other jobs of the batch still get their results
            _log.exception("a result could not be handed out")
            self._ends(queued, CloudError(f"the engine failed to make a verdict of a forward's result: {error}"))
            return
        pool.truncate(job.table, job.kept)
        pool.settle(job.table, job.tokens)
        if not more:
            self._ends(queued)
            return
        self._scheduler.goes_on(queued.request, job.length - job.table.length)
        queued.results.clear()
        queued.since, queued.compute, queued.share, queued.processed = ended, 0.0, 0.0, 0

    def _ends(self, queued: _Queued[Inputs, _Result], error: CloudError | None = None) -> None:
        """A job has had its last result, or fails."""
        with self._changed:
            self._there.pop(queued.job, None)
        self._leaves(queued)
        if error is not None:
            _fail([queued.job], error)


def _work(job: Job[Inputs, _Result], part: Slice) -> Work[Inputs]:
    start = job.table.length
    stop = start + part.tokens
    return Work(job.table.blocks, start, job.inputs(start, stop), job.wanted(start, stop))


def _told(slices: Sequence[Slice], seconds: float, waiting: int) -> Iteration:
    """What a forward was, once its slices have been run."""
    verify = sum(each.request.tail for each in slices if each.request.check and each.request.left == 0)
    decode = sum(each.tokens for each in slices if each.request.decoding)
    tokens = sum(each.tokens for each in slices)
    return Iteration(seconds, len(slices), verify, tokens - verify - decode, decode, waiting)


def _fail(jobs: Iterable[Job[Any, Any]], error: CloudError) -> None:
    for job in jobs:
        try:
            # One each: an error that was raised keeps the frames it passed through, with another session's cache in them.
            job.fail(type(error)(*error.args))
        except Exception:  # nobody is left to tell, as when its event loop has closed; the others still are
            _log.exception("a failure could not be handed out")
