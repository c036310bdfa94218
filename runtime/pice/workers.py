"""The edge pool: small models that write parts of an answer, each where there is least to do, and again elsewhere where one is slow or gone.

A worker is a verifier of the small model (synera serve), asked by `Generate`; its batcher runs the parts of all answers together, and what their prompts
begin with alike once, where it shares prefixes. What does not live here: which parts there are (lines.py), how they are put together
(assembly.py) and scored (ensemble.py).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Container, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from runtime.answers import GeneratedToken
from runtime.breaker import Breaker
from runtime.client import CloudClient, Stream
from runtime.errors import CloudBusyError, CloudError, CloudRejectedError, CloudUnavailableError
from runtime.sampling import Sampling
from runtime.settings import above, whole, within

_THREADS = 128
HISTORY_WEIGHT = 0.8
"""Of what was known before, in the mean time of a token."""


class NoWorkerError(CloudUnavailableError):
    """No worker is left that would write a part."""


@dataclass(frozen=True)
class Patience:
    """How long a worker may take before a part is given to another one as well.

    Raises:
        SettingError: a number is out of its range.
    """

    times: float = 3.0
    """So many times what a token takes on the mean; 1 at least."""
    least_seconds: float = 1.0
    first_seconds: float = 10.0
    """Before anything is known."""

    def __post_init__(self) -> None:
        within("times", self.times, 1, 1_000)
        above("least_seconds", self.least_seconds, 0)
        above("first_seconds", self.first_seconds, 0)


@dataclass(frozen=True)
class Task:
    """What is to be written."""

    prompt: tuple[int, ...]
    max_new_tokens: int
    sampling: Sampling | None = None
    """None writes greedily."""


@dataclass(frozen=True)
class Written:
    """What a worker wrote."""

    tokens: tuple[int, ...]
    log_probability: float
    """Of all of them, nats."""
    worker: int
    seconds: float
    """From when the worker was asked."""
    first_seconds: float
    """Until its first token."""


@dataclass
class _Worker:
    client: CloudClient
    breaker: Breaker = field(default_factory=Breaker)
    tokens: int = 0
    """That it has been asked for and not written."""


class _Attempt:
    """A task with one worker, in a thread of its own."""

    def __init__(self, worker: int) -> None:
        self.worker = worker
        self._lock = threading.Lock()
        self._stream: Stream[GeneratedToken] | None = None
        self._cancelled = False

    def begun(self, stream: Stream[GeneratedToken]) -> None:
        with self._lock:
            self._stream = stream
            if self._cancelled:
                stream.close()

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            if self._stream is not None:
                self._stream.close()


class Pool:
    """Workers that share parts; threads may share it. It owns its threads, not its clients."""

    def __init__(
        self, clients: Sequence[CloudClient], patience: Patience | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin.

        Args:
            clients: of the workers, at least one.
            patience: with slow ones.
            now: monotonic seconds.

        Raises:
            SettingError: there is none.
        """
        whole("workers", len(clients), 1, 1_000)
        self._workers = [_Worker(client) for client in clients]
        self._patience, self._now = patience or Patience(), now
        self._lock = threading.Lock()
        self._token_seconds: float | None = None
        self._running: dict[_Attempt, None] = {}
        self._closed = False
        self._tasks = ThreadPoolExecutor(_THREADS, "pice-task")
        self._attempts = ThreadPoolExecutor(2 * _THREADS, "pice-attempt")

    def submit(self, task: Task) -> Future[Written]:
        """Have a task written by some worker. The future fails as NoWorkerError where none is left, and as the CloudRejectedError of the first that
        refuses it for good.
        """
        return self._tasks.submit(self._run, task)

    @property
    def available(self) -> int:
        """Workers that are not left alone because they failed."""
        now = self._now()
        return sum(not worker.breaker.shut(now) for worker in self._workers)

    def close(self) -> None:
        """Give up what is being written, and end its threads."""
        with self._lock:
            self._closed = True
            attempts = list(self._running)
        for attempt in attempts:
            attempt.cancel()
        self._tasks.shutdown(wait=True, cancel_futures=True)
        self._attempts.shutdown(wait=True, cancel_futures=True)

    def _run(self, task: Task) -> Written:
        tried, running = set[int](), dict[Future[Written], _Attempt]()
        last: CloudError | None = None
        try:
            while True:
                worker = self._free(tried) if not running or len(tried) < len(self._workers) else None
                if worker is not None:
                    tried.add(worker)
                    attempt = self._began(worker, task)
                    running[self._attempts.submit(self._write, attempt, task)] = attempt
                elif not running:
                    raise NoWorkerError(
                        f"none of {len(self._workers)} workers writes this part" + (f"; the last one: {last}" if last else "")
                    )
                others = len(tried) < len(self._workers)
                done, _ = wait(running, self._late_seconds(task) if others else None, FIRST_COMPLETED)
                for each in done:
                    del running[each]
                    try:
                        return each.result()
                    except CloudRejectedError:  # and so would others
                        raise
                    except CloudError as failed:
                        last = failed
        finally:
            for attempt in running.values():
                attempt.cancel()

    def _free(self, tried: Container[int]) -> int | None:
        """The worker with least to do of those that may be asked."""
        now = self._now()
        with self._lock:
            if self._closed:
                return None
            able = [n for n, worker in enumerate(self._workers) if n not in tried and not worker.breaker.shut(now)]
            return min(able, key=lambda n: self._workers[n].tokens) if able else None

    def _began(self, worker: int, task: Task) -> _Attempt:
        attempt = _Attempt(worker)
        with self._lock:
            self._workers[worker].tokens += task.max_new_tokens
            self._running[attempt] = None
        return attempt

    def _late_seconds(self, task: Task) -> float:
        """When another worker is asked, too."""
        with self._lock:
            each, patience = self._token_seconds, self._patience
        return (
            patience.first_seconds if each is None else max(patience.least_seconds, patience.times * each * task.max_new_tokens)
        )

    def _write(self, attempt: _Attempt, task: Task) -> Written:
        worker = self._workers[attempt.worker]
        try:
            worker.breaker.claim(self._now())
            written = self._written(attempt, task)
        except CloudError as failed:
            if attempt.cancelled:
                worker.breaker.withdraw()  # which says nothing of it
            elif isinstance(failed, CloudRejectedError):
                worker.breaker.answered()
            else:
                asks = failed.retry_after_seconds if isinstance(failed, CloudBusyError) else None
                worker.breaker.failed(self._now(), str(failed), asks or 0.0)
            raise
        else:
            worker.breaker.succeeded()
            self._took(written)
            return written
        finally:
            with self._lock:
                worker.tokens -= task.max_new_tokens
                del self._running[attempt]

    def _written(self, attempt: _Attempt, task: Task) -> Written:
        client, began, tokens, said, first = self._workers[attempt.worker].client, self._now(), list[int](), 0.0, 0.0
        stream = client.generate(task.prompt, task.max_new_tokens, task.sampling, log_probabilities=True)
        attempt.begun(stream)
        for each in stream:
            if not tokens:
                first = self._now() - began
            tokens.append(each.token)
            said += each.log_probability or 0.0
        return Written(tuple(tokens), said, attempt.worker, self._now() - began, first)

    def _took(self, written: Written) -> None:
        each = written.seconds / max(1, len(written.tokens))
        with self._lock:
            before = self._token_seconds
            self._token_seconds = each if before is None else HISTORY_WEIGHT * before + (1 - HISTORY_WEIGHT) * each
