"""What fails when something in a batch, or the engine's thread itself, goes wrong; each fault is planted."""

from __future__ import annotations

import pytest

from runtime.errors import CloudError, CloudUnavailableError
from runtime.scheduling import Scheduler
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
        assert kept.outcome().results[-1].choices == continuation([1, 2], 1)
    assert type(error) is CloudError
    assert "a request, 1 tokens in this forward: out of memory" in str(error)


@pytest.mark.parametrize("short", [1, 2])
def test_a_forward_that_gives_too_few_results_is_run_again_by_halves(short: int) -> None:
    forward = FakeForward()
    forward.short = short
    jobs = [Probe([1]), Probe([1, 2])]
    with batcher(forward, jobs):
        assert [job.outcome().results[-1].choices for job in jobs] == [continuation([1], 1), continuation([1, 2], 1)]
    assert forward.batches == [[1, 2], [1], [2]]


def test_one_that_cannot_be_run_fails_alone() -> None:
    forward = FakeForward()
    forward.poisoned = {49}
    jobs = [Probe([i, 49 if i == 3 else i]) for i in range(8)]
    with batcher(forward, jobs):
        for i, job in enumerate(jobs):
            if i == 3:
                assert "poisoned" in str(job.error())
            else:
                assert job.outcome().results[-1].choices == continuation([i, i], 1)


def test_jobs_that_fail_at_one_time_share_no_error() -> None:
    forward = FakeForward()
    forward.failures += [RuntimeError("out of memory")] * 3
    jobs = [Probe([1]), Probe([2])]
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
        assert kept.outcome().results[-1].choices == continuation([1, 2], 1)
        assert [stream.outcome().results[-1].choices[0] for _ in range(3)] == continuation([4], 3)
        error = broken.error()
    assert type(error) is CloudError
    assert "planted in deliver" in str(error)
    assert forward.batches == [[1, 2, 1], [1], [1]]  # the broken one is not tried again


def test_a_job_that_cannot_even_fail_keeps_no_other_from_failing() -> None:
    forward = FakeForward()
    forward.failures += [RuntimeError("out of memory")] * 3
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
    def plan(*given: object) -> list[object]:
        raise RuntimeError("planted in the scheduler")

    monkeypatch.setattr(Scheduler, "plan", plan)
    made, deaths = make(FakeForward())
    job = Probe([1])
    made.put(job)
    made.start()
    assert isinstance(job.error(), CloudUnavailableError)
    assert "planted in the scheduler" in str(deaths.get(timeout=30))
    made.stop()
