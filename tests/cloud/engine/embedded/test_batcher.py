from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cloud.engine.base import Work
from cloud.engine.embedded.batcher import Batcher, Outcome
from runtime.errors import CloudError, CloudUnavailableError
from tests.support.engine import FakeEngine, continuation


class Probe:
    """A job that decodes `rounds` tokens and reports into a queue."""

    def __init__(self, session_id: str, prompt: list[int], rounds: int = 1) -> None:
        self.session_id, self._tokens, self._rounds = session_id, prompt, rounds
        self._cache, self._position = FakeEngine().new_cache(), 0
        self.got: queue.Queue[Outcome | CloudError] = queue.Queue()
        self.abandoned = False

    def work(self) -> Work | None:
        return None if self.abandoned else Work(self._cache, self._position, self._tokens, 1)

    def deliver(self, outcome: Outcome) -> bool:
        self._position += len(self._tokens)
        self._tokens, self._rounds = [outcome.choices[0]], self._rounds - 1
        self.got.put(outcome)
        return self._rounds > 0

    def fail(self, error: CloudError) -> None:
        self.got.put(error)

    def outcome(self) -> Outcome:
        got = self.got.get(timeout=30)
        assert isinstance(got, Outcome), got
        return got


class FakeTime:
    """Seconds that pass only in `sleep`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class PerToken:
    def forward_seconds(self, tokens: int) -> float:
        return 0.5 + 0.25 * tokens


@contextmanager
def batcher(engine: FakeEngine, **options: object) -> Iterator[Batcher]:
    made = Batcher(engine, **options)  # type: ignore[arg-type]
    made.start()
    try:
        yield made
    finally:
        engine.gate.set()
        made.stop()


def hold(engine: FakeEngine, made: Batcher) -> Probe:
    """Occupy the engine until its gate opens, so that what is put next waits."""
    engine.gate.clear()
    engine.entered.clear()
    first = Probe("held", [1])
    made.put(first)
    assert engine.entered.wait(30)
    return first


def test_what_waits_shares_the_next_batch_within_the_budget() -> None:
    engine = FakeEngine()
    with batcher(engine, token_budget=6) as made:
        hold(engine, made)
        jobs = [Probe(str(i), [i] * 3) for i in range(3)]
        for job in jobs:
            made.put(job)
        engine.gate.set()
        outcomes = [job.outcome() for job in jobs]
    assert engine.batches == [[1], [3, 3], [3]]
    assert [o.choices[0] for o in outcomes] == [continuation([i] * 3, 1)[0] for i in range(3)]
    assert [o.load for o in outcomes] == [3, 3, 1]


def test_jobs_of_one_session_run_one_after_the_other() -> None:
    engine = FakeEngine()
    with batcher(engine) as made:
        hold(engine, made)
        jobs = [Probe("same", [2]), Probe("same", [3]), Probe("other", [4])]
        for job in jobs:
            made.put(job)
        engine.gate.set()
        for job in jobs:
            job.outcome()
    assert engine.batches == [[1], [1, 1], [1]]


def test_streams_stay_together_in_a_batch() -> None:
    engine = FakeEngine()
    with batcher(engine) as made:
        hold(engine, made)
        jobs = [Probe(str(i), [i, i], rounds=4) for i in range(3)]
        for job in jobs:
            made.put(job)
        engine.gate.set()
        answers = [[job.outcome().choices[0] for _ in range(4)] for job in jobs]
    assert answers == [continuation([i, i], 4) for i in range(3)]
    assert engine.batches == [[1], [2, 2, 2], [1, 1, 1], [1, 1, 1], [1, 1, 1]]


def test_pace_sets_the_duration_and_each_request_gets_its_share() -> None:
    engine, time = FakeEngine(), FakeTime()
    with batcher(engine, pace=PerToken(), now=time.now, sleep=time.sleep) as made:
        held = hold(engine, made)
        jobs = [Probe("a", [1, 2, 3]), Probe("b", [1])]
        for job in jobs:
            made.put(job)
        engine.gate.set()
        first, (a, b) = held.outcome(), (job.outcome() for job in jobs)
    assert (first.queue_ms, first.compute_ms, first.compute_share_ms) == (0.0, 750.0, 750.0)
    assert (a.queue_ms, a.compute_ms, a.compute_share_ms) == (750.0, 1500.0, 1125.0)
    assert (b.queue_ms, b.compute_ms, b.compute_share_ms) == (750.0, 1500.0, 375.0)


def test_an_engine_failure_fails_its_batch_and_nothing_else() -> None:
    engine = FakeEngine()
    engine.failures = 1
    with batcher(engine) as made:
        lost, kept = Probe("a", [1]), Probe("a2", [1, 2])
        made.put(lost)
        error = lost.got.get(timeout=30)
        made.put(kept)
        assert kept.outcome().choices == continuation([1, 2], 1)
    assert type(error) is CloudError
    assert "1 requests, 1 tokens: out of memory" in str(error)


def test_abandoned_jobs_are_not_run() -> None:
    engine = FakeEngine()
    with batcher(engine) as made:
        hold(engine, made)
        gone, kept = Probe("a", [1] * 5), Probe("b", [2])
        gone.abandoned = True
        made.put(gone)
        made.put(kept)
        engine.gate.set()
        kept.outcome()
    assert engine.batches == [[1], [1]]
    assert gone.got.empty()


def test_stop_fails_what_waits_and_what_comes_later() -> None:
    engine = FakeEngine()
    made = Batcher(engine)
    waiting = Probe("a", [1])
    made.put(waiting)
    made.stop()  # never started: nothing may hang
    late = Probe("b", [1])
    made.put(late)
    assert isinstance(late.got.get(timeout=30), CloudUnavailableError)
    running = Batcher(engine)
    running.start()
    running.stop()
    running.put(late)
    assert isinstance(late.got.get(timeout=30), CloudUnavailableError)


def test_the_budget_is_checked() -> None:
    with pytest.raises(ValueError, match="token_budget=0"):
        Batcher(FakeEngine(), token_budget=0)
