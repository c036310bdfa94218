from __future__ import annotations

from runtime.synera.backoff import Backoff


def wait(backoff: Backoff, now: float) -> float:
    """Seconds that the cloud is still left alone."""
    refusal = backoff.refusal(now)
    return float(refusal.split("next try in ")[1].split()[0]) if refusal else 0.0


def test_each_failure_in_a_row_is_waited_for_longer_until_a_verdict() -> None:
    backoff, now, waits = Backoff(), 100.0, []
    assert wait(backoff, now) == 0.0
    for _ in range(6):
        backoff.failed(now, "gone")
        waits.append(wait(backoff, now))
        assert wait(backoff, now + waits[-1] - 0.2) > 0
        now += waits[-1]
        assert backoff.refusal(now) is None
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    backoff.succeeded()
    backoff.failed(now, "gone again")
    assert backoff.refusal(now) == "gone again (next try in 0.5 s)"
    backoff.succeeded()  # of another session
    assert backoff.refusal(now) is None


def test_sessions_that_lose_the_cloud_at_the_same_time_lose_it_once() -> None:
    backoff = Backoff()
    for now in (10.0, 10.1, 10.2):  # their messages were under way together
        backoff.failed(now, "gone")
    assert wait(backoff, 10.2) == 0.3
    backoff.failed(10.5, "gone")
    assert wait(backoff, 10.5) == 1.0
