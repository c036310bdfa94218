from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from runtime.errors import CloudUnavailableError
from tests.support.batches import Probe, batcher, hold, make, settle
from tests.support.engine import FakeForward, continuation
from tests.support.paces import FakeTime, NoWait


class PerToken(NoWait):
    def forward_seconds(self, tokens: int) -> float:
        return 0.5 + 0.25 * tokens


def test_what_waits_shares_the_next_batch_within_the_budget() -> None:
    forward = FakeForward()
    with batcher(forward, token_budget=6) as made:
        hold(forward, made)
        jobs = [Probe([i] * 3) for i in range(3)]
        for job in jobs:
            made.put(job)
        forward.gate.set()
        outcomes = [job.outcome() for job in jobs]
    assert forward.batches == [[1], [3, 3], [3]]
    assert [o.results[-1].choices[0] for o in outcomes] == [continuation([i] * 3, 1)[0] for i in range(3)]
    assert [o.load for o in outcomes] == [3, 3, 1]


def test_streams_stay_together_in_a_batch() -> None:
    forward = FakeForward()
    with batcher(forward) as made:
        hold(forward, made)
        jobs = [Probe([i, i], rounds=4) for i in range(3)]
        for job in jobs:
            made.put(job)
        forward.gate.set()
        answers = [[job.outcome().results[-1].choices[0] for _ in range(4)] for job in jobs]
    assert answers == [continuation([i, i], 4) for i in range(3)]
    assert forward.batches == [[1], [2, 2, 2], [1, 1, 1], [1, 1, 1], [1, 1, 1]]


def test_pace_sets_the_duration_and_each_request_gets_its_share() -> None:
    forward, time = FakeForward(), FakeTime()
    with batcher(forward, pace=PerToken(), now=time.now, sleep=time.sleep) as made:
        held = hold(forward, made)
        jobs = [Probe([1, 2, 3]), Probe([1])]
        for job in jobs:
            made.put(job)
        forward.gate.set()
        first, (a, b) = held.outcome(), (job.outcome() for job in jobs)
    assert (first.queue_ms, first.compute_ms, first.compute_share_ms) == (0.0, 750.0, 750.0)
    assert (a.queue_ms, a.compute_ms, a.compute_share_ms) == (750.0, 1500.0, 1125.0)
    assert (b.queue_ms, b.compute_ms, b.compute_share_ms) == (750.0, 1500.0, 375.0)


def test_dropped_jobs_are_not_run_and_free_what_they_held() -> None:
    forward = FakeForward()
    with batcher(forward) as made:
        held = hold(forward, made, rounds=5)
        gone, kept = Probe([1] * 5), Probe([2])
        made.put(gone)
        made.put(kept)
        made.drop(gone)
        made.drop(held)  # whose forward runs
        made.release(held.table)
        forward.gate.set()
        kept.outcome()
        made.release(kept.table)
        settle(made)
        assert made.usage.used_blocks == 0
    assert forward.batches == [[1], [1]]
    assert gone.got.empty()
    assert held.got.empty()


def test_stop_fails_what_waits_and_what_comes_later() -> None:
    made, _ = make(FakeForward())
    waiting, late = Probe([1]), Probe([1])
    made.put(waiting)
    made.check_alive()
    made.stop()  # never started: nothing may hang
    made.put(late)
    for job in (waiting, late):
        assert isinstance(job.error(), CloudUnavailableError)
    with pytest.raises(CloudUnavailableError, match="shutting down"):
        made.check_alive()


def test_stop_lets_the_batch_in_hand_end_and_leaves_nobody_waiting() -> None:
    forward = FakeForward()
    with batcher(forward) as made, ThreadPoolExecutor(1) as other:
        held = hold(forward, made, rounds=3)
        waiting = Probe([1])
        made.put(waiting)
        stopping = other.submit(made.stop)
        assert isinstance(waiting.error(), CloudUnavailableError)
        forward.gate.set()
        stopping.result(timeout=30)
        assert held.outcome().results[-1].choices == continuation([1], 1)
        assert isinstance(held.error(), CloudUnavailableError)  # there is no second round


def test_the_budget_is_checked() -> None:
    with pytest.raises(ValueError, match="token_budget=0"):
        make(FakeForward(), token_budget=0)
