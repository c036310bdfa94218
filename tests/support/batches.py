"""A batcher under test: jobs that tell what they got, and an engine that can be held at its gate."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cloud.engine.embedded.batcher import Batcher, Outcome
from cloud.engine.embedded.forward import Work
from runtime.errors import CloudError, CloudUnavailableError
from tests.support.engine import FakeForward


class Probe:
    """A job that decodes `rounds` tokens and reports into a queue."""

    def __init__(self, prompt: list[int], rounds: int = 1, *, of: Probe | None = None) -> None:
        """`of`: a job whose cache, so whose sequence, this one shares."""
        self._tokens, self._rounds = prompt, rounds
        self._cache, self._position = FakeForward().new_cache() if of is None else of._cache, 0
        self.got: queue.Queue[Outcome | CloudError] = queue.Queue()
        self.abandoned = False

    def work(self) -> Work | None:
        return None if self.abandoned else Work(self._cache, self._position, self._tokens, 1)

    def deliver(self, outcome: Outcome) -> bool:
        self._position += len(self._tokens)
        self._tokens, self._rounds = [outcome.rows.choices[0]], self._rounds - 1
        self.got.put(outcome)
        return self._rounds > 0

    def fail(self, error: CloudError) -> None:
        self.got.put(error)

    def outcome(self) -> Outcome:
        got = self.got.get(timeout=30)
        assert isinstance(got, Outcome), got
        return got

    def error(self) -> CloudError:
        got = self.got.get(timeout=30)
        assert isinstance(got, CloudError), got
        return got


class Broken(Probe):
    """A job that raises where it is told to."""

    def __init__(self, where: str) -> None:
        super().__init__([3])
        self._where = where

    def work(self) -> Work | None:
        self._raise_at("work")
        return super().work()

    def deliver(self, outcome: Outcome) -> bool:
        self._raise_at("deliver")
        return super().deliver(outcome)

    def fail(self, error: CloudError) -> None:
        self._raise_at("fail")
        super().fail(error)

    def _raise_at(self, where: str) -> None:
        if where == self._where:
            raise ValueError(f"planted in {where}")


def make(forward: FakeForward, **options: object) -> tuple[Batcher, queue.Queue[CloudUnavailableError]]:
    """A batcher, and why it died."""
    deaths: queue.Queue[CloudUnavailableError] = queue.Queue()
    return Batcher(forward, **{"token_budget": 512, "died": deaths.put} | options), deaths  # type: ignore[arg-type]


@contextmanager
def batcher(forward: FakeForward, jobs: Sequence[Probe] = (), **options: object) -> Iterator[Batcher]:
    """A batcher that finds `jobs` waiting, lives, and has not died at the end."""
    made, deaths = make(forward, **options)
    for job in jobs:
        made.put(job)
    made.start()
    try:
        yield made
        assert deaths.empty()
    finally:
        forward.gate.set()
        made.stop()


def hold(forward: FakeForward, made: Batcher, rounds: int = 1) -> Probe:
    """Occupy the engine until its gate opens, so that what is put next waits."""
    forward.gate.clear()
    forward.entered.clear()
    first = Probe([1], rounds)
    made.put(first)
    assert forward.entered.wait(30)
    return first
