"""A batcher under test: jobs that tell what they got, and an engine that can be held at its gate."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from cloud.engine.embedded.batcher import Batcher
from cloud.engine.embedded.forward import Rows
from cloud.engine.embedded.jobs import OfTokens, Outcome
from cloud.engine.embedded.kv_pool import Table
from runtime.errors import CloudError, CloudUnavailableError
from runtime.policies import DEFAULT_POLICY
from runtime.scheduling import TOKEN_BUDGET, Scheduler
from tests.support.engine import FakeForward


class Probe(OfTokens):
    """A job that decodes `rounds` tokens and reports into a queue."""

    check, account, deadline, tail = False, "", float("inf"), 1

    def __init__(self, prompt: list[int], rounds: int = 1) -> None:
        self.table, self.tokens, self.kept = Table(f"sequence {id(self)}"), list(prompt), 0
        self._rounds = rounds
        self.got: queue.Queue[Outcome[Rows] | CloudError] = queue.Queue()

    def deliver(self, outcome: Outcome[Rows]) -> bool:
        self.kept, self._rounds = len(self.tokens), self._rounds - 1
        if self._rounds > 0:
            self.tokens.append(outcome.results[-1].choices[0])
        self.got.put(outcome)
        return self._rounds > 0

    def fail(self, error: CloudError) -> None:
        self.got.put(error)

    def outcome(self) -> Outcome[Rows]:
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

    def deliver(self, outcome: Outcome[Rows]) -> bool:
        self._raise_at("deliver")
        return super().deliver(outcome)

    def fail(self, error: CloudError) -> None:
        self._raise_at("fail")
        super().fail(error)

    def _raise_at(self, where: str) -> None:
        if where == self._where:
            raise ValueError(f"planted in {where}")


def make(
    forward: FakeForward, *, policy: str = DEFAULT_POLICY, token_budget: int = TOKEN_BUDGET, **options: Any
) -> tuple[Batcher[list[int], Rows], queue.Queue[CloudUnavailableError]]:
    """A batcher, and why it died."""
    deaths: queue.Queue[CloudUnavailableError] = queue.Queue()
    return Batcher(forward, Scheduler(policy, token_budget), died=deaths.put, **options), deaths


@contextmanager
def batcher(forward: FakeForward, jobs: Sequence[Probe] = (), **options: Any) -> Iterator[Batcher[list[int], Rows]]:
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
    made.memory.check_integrity()
    assert made.usage.used_blocks == made.usage.waiting == 0


def hold(forward: FakeForward, made: Batcher[list[int], Rows], rounds: int = 1) -> Probe:
    """Occupy the engine until its gate opens, so that what is put next waits."""
    forward.gate.clear()
    forward.entered.clear()
    first = Probe([1], rounds)
    made.put(first)
    assert forward.entered.wait(30)
    return first


def settle(made: Batcher[list[int], Rows]) -> None:
    """Wait until what was dropped and released is free."""
    done = threading.Event()
    made.when_done(done.set)
    assert done.wait(30)
