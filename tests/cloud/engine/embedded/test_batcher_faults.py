"""What fails when something in a batch, or the engine's thread itself, goes wrong; each fault is planted."""

from __future__ import annotations

import pytest

from cloud.engine.embedded import batcher as batcher_module
from runtime.errors import CloudError, CloudUnavailableError
from tests.support.batches import Broken, Probe, batcher, hold, make
from tests.support.engine import FakeForward, continuation
from tests.support.paces import NoWait


class BrokenPace(NoWait):
    def forward_seconds(self, tokens: int) -> float:
        raise ValueError("planted in pace")


def test_an_engine_failure_fails_its_batch_and_nothing_else() -> None:
    forward = FakeForward()
    forward.failures.append(RuntimeError("out of memory"))
    with batcher(forward) as made:
        lost, kept = Probe([1]), Probe([1, 2])
        made.put(lost)
        error = lost.error()
        made.put(kept)
        assert kept.outcome().rows.choices == continuation([1, 2], 1)
    assert type(error) is CloudError
    assert "1 requests, 1 tokens: out of memory" in str(error)


@pytest.mark.parametrize("short", [1, 2])
def test_too_few_results_fail_the_batch_and_nothing_else(short: int) -> None:
    forward = FakeForward()
    forward.short = short
    jobs, kept = [Probe([1]), Probe([1, 2])], Probe([1, 2])
    with batcher(forward, jobs) as made:
        for job in jobs:
            error = job.error()
            assert type(error) is CloudError
            assert f"2 requests, 3 tokens: the forward gave {2 - short} results" in str(error)
        made.put(kept)
        assert kept.outcome().rows.choices == continuation([1, 2], 1)


def test_jobs_that_fail_together_share_no_error() -> None:
    forward = FakeForward()
    forward.failures.append(RuntimeError("out of memory"))
    jobs = [Probe([1]), Probe([1, 2])]
    with batcher(forward, jobs):
        one, other = (job.error() for job in jobs)
    assert one is not other
    assert str(one) == str(other)


def test_a_pace_that_raises_fails_its_batch() -> None:
    forward = FakeForward()
    with batcher(forward, pace=BrokenPace()) as made:
        for _ in range(2):  # and the next
            job = Probe([1])
            made.put(job)
            assert "planted in pace" in str(job.error())


def test_a_result_that_cannot_be_handed_out_fails_its_job_alone() -> None:
    forward = FakeForward()
    broken, kept, stream = Broken("deliver"), Probe([1, 2]), Probe([4], rounds=3)
    with batcher(forward, [broken, kept, stream]):
        assert kept.outcome().rows.choices == continuation([1, 2], 1)
        assert [stream.outcome().rows.choices[0] for _ in range(3)] == continuation([4], 3)
        error = broken.error()
    assert type(error) is CloudError
    assert "planted in deliver" in str(error)
    assert forward.batches == [[1, 2, 1], [1], [1]]  # the broken one is not tried again


def test_a_job_that_cannot_even_fail_keeps_no_other_from_failing() -> None:
    forward = FakeForward()
    forward.failures.append(RuntimeError("out of memory"))
    jobs = [Broken("fail"), Probe([2])]
    with batcher(forward, jobs):
        assert "out of memory" in str(jobs[1].error())


@pytest.mark.parametrize("error", [SystemExit("planted"), KeyboardInterrupt("planted")])
def test_a_dying_thread_fails_what_is_in_hand_what_waits_and_what_comes(error: BaseException) -> None:
    forward = FakeForward()
    made, deaths = make(forward)
    made.start()
    held = hold(forward, made)
    waiting = Probe([2])
    made.put(waiting)
    forward.failures.append(error)
    forward.gate.set()
    told = [held.error(), waiting.error(), deaths.get(timeout=30)]
    late = Probe([3])
    made.put(late)
    for each in (*told, late.error()):
        assert isinstance(each, CloudUnavailableError)
        assert "planted" in str(each)
        assert "restart the verifier" in str(each)
    with pytest.raises(CloudUnavailableError, match="planted"):
        made.check_alive()
    made.stop()  # of what is dead: nothing hangs, nothing is told twice
    assert deaths.empty()


def test_a_batch_that_cannot_be_formed_is_the_death_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made, deaths = make(FakeForward())
    jobs = [Probe([1]), Broken("work"), Probe([2])]
    for job in jobs:
        made.put(job)
    made.start()
    for job in jobs:
        assert "planted in work" in str(job.error())
    assert "planted in work" in str(deaths.get(timeout=30))
    made.stop()

    def pick(waiting: object, budget: object) -> list[int]:
        raise RuntimeError("planted in the scheduler")

    monkeypatch.setattr(batcher_module, "pick_fcfs", pick)
    made, deaths = make(FakeForward())
    made.put(jobs[0])
    made.start()
    assert isinstance(jobs[0].error(), CloudUnavailableError)
    assert "planted in the scheduler" in str(deaths.get(timeout=30))
    made.stop()
