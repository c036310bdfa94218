from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from runtime.breaker import Breaker


def wait(breaker: Breaker, now: float) -> float:
    """Seconds that the cloud is still left alone."""
    refusal = breaker.refusal(now)
    return float(refusal.split("next try in ")[1].split()[0]) if refusal else 0.0


def test_each_failure_in_a_row_is_waited_for_longer_until_a_verdict() -> None:
    breaker, now, waits = Breaker(), 100.0, []
    assert wait(breaker, now) == 0.0
    for _ in range(6):
        breaker.failed(now, "gone")
        waits.append(wait(breaker, now))
        assert wait(breaker, now + waits[-1] - 0.2) > 0
        assert not breaker.claim(now + waits[-1] - 0.2)
        now += waits[-1]
        assert breaker.refusal(now) == "gone (it is being tried again)"
        assert breaker.claim(now)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    breaker.succeeded()
    assert breaker.refusal(now) is None
    breaker.failed(now, "gone again")
    assert breaker.refusal(now) == "gone again (next try in 0.5 s)"
    breaker.succeeded()  # of another session
    assert breaker.refusal(now) is None


def test_sessions_that_lose_the_cloud_at_the_same_time_lose_it_once() -> None:
    breaker = Breaker()
    for now in (10.0, 10.1, 10.2):  # their messages were under way together
        breaker.failed(now, "gone")
    assert wait(breaker, 10.2) == 0.3
    breaker.failed(10.5, "gone")
    assert wait(breaker, 10.5) == 1.0


def test_one_probe_at_a_time_and_all_others_are_refused() -> None:
    breaker = Breaker()
    assert breaker.claim(0.0)  # closed: nobody needs to
    assert breaker.claim(0.0)
    breaker.failed(0.0, "gone")
    start = threading.Barrier(8)

    def claim(_: int) -> bool:
        start.wait()
        return breaker.claim(0.5)

    with ThreadPoolExecutor(8) as sessions:
        assert sum(sessions.map(claim, range(8))) == 1
    assert breaker.refusal(0.6) == "gone (it is being tried again)"
    breaker.withdraw()
    assert breaker.claim(0.6)
    breaker.answered()
    assert breaker.refusal(0.6) is None


def test_a_probe_that_is_answered_is_no_verdict() -> None:
    breaker = Breaker()
    breaker.failed(0.0, "gone")
    assert breaker.claim(0.5)
    breaker.answered()
    breaker.failed(0.7, "gone")
    assert wait(breaker, 0.7) == 1.0  # the second in a row


def test_a_probe_that_fails_allows_another_after_the_next_pause() -> None:
    breaker = Breaker()
    breaker.failed(0.0, "gone")
    assert breaker.claim(0.5)
    breaker.failed(1.5, "gone")
    assert wait(breaker, 1.5) == 1.0
    assert not breaker.claim(2.4)
    assert breaker.claim(2.5)


def test_a_cloud_that_says_when_to_try_again_is_left_alone_for_at_least_that_long() -> None:
    breaker = Breaker()
    breaker.failed(0.0, "busy", 3.0)
    assert wait(breaker, 0.0) == 3.0
    assert not breaker.claim(2.9)
    assert breaker.claim(3.0)
    breaker.failed(3.0, "busy", 0.2)
    assert wait(breaker, 3.0) == 1.0  # the second in a row, whatever was said
    breaker.succeeded()
    breaker.failed(10.0, "gone")
    assert wait(breaker, 10.0) == 0.5


def test_a_word_that_comes_while_the_cloud_is_left_alone_makes_that_longer_and_never_shorter() -> None:
    breaker = Breaker()
    breaker.failed(0.0, "gone")
    breaker.failed(0.1, "busy", 0.1)
    assert breaker.refusal(0.1) == "gone (next try in 0.4 s)"
    breaker.failed(0.2, "busy", 5.0)
    assert breaker.refusal(0.2) == "busy (next try in 5.0 s)"
    breaker.failed(0.3, "gone")
    assert wait(breaker, 0.2) == 5.0
    breaker.failed(5.2, "gone")
    assert wait(breaker, 5.2) == 1.0  # all of that was one failure
