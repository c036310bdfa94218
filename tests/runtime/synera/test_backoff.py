"""How long a cloud is left alone."""

from __future__ import annotations

import pytest

from runtime.synera.backoff import Backoff


def test_a_cloud_that_never_failed_is_asked() -> None:
    assert Backoff().refusal(0.0) is None


def test_after_each_failure_in_a_row_it_is_left_alone_longer() -> None:
    backoff, now = Backoff(), 100.0
    for seconds in (0.5, 1.0, 2.0, 4.0, 8.0, 8.0):
        backoff.failed(now, "gone")
        assert backoff.refusal(now + seconds - 0.01) is not None
        assert backoff.refusal(now + seconds) is None
        now += seconds


def test_an_answer_starts_over() -> None:
    backoff = Backoff()
    for _ in range(4):
        backoff.failed(0.0, "gone")
    backoff.succeeded()
    assert backoff.refusal(0.0) is None
    backoff.failed(0.0, "gone")
    assert backoff.refusal(0.6) is None


@pytest.mark.parametrize("now", [0.0, 0.3])
def test_the_refusal_says_why_and_for_how_long(now: float) -> None:
    backoff = Backoff()
    backoff.failed(0.0, "no verifier answers")
    assert backoff.refusal(now) == f"no verifier answers (next try in {0.5 - now:.1f} s)"
