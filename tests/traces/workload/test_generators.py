from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime.errors import SettingError
from traces.errors import TraceError
from traces.workload.generators import Lengths, closed_loop, poisson
from traces.workload.serving import Server


def server(**changes: Any) -> Server:
    return Server(**({"name": "test", "forward_ms": 20.0, "token_ms": 0.1} | changes))


def test_poisson_arrivals_are_poisson_s() -> None:
    found = poisson(20.0, 500.0, seed=1).figures
    assert found.rate == pytest.approx(20.0, rel=0.05)
    assert found.gap_cv == pytest.approx(1.0, rel=0.05)
    assert found.context.p50 == pytest.approx(1020, rel=0.05)
    assert found.context.p95 == pytest.approx(4083, rel=0.1)
    assert found.generated.p50 == pytest.approx(129, rel=0.05)
    assert found.generated.p95 == pytest.approx(451, rel=0.1)


def test_the_same_seed_makes_the_same() -> None:
    assert poisson(2.0, 100.0, 7).same(poisson(2.0, 100.0, 7))
    assert not poisson(2.0, 100.0, 7).same(poisson(2.0, 100.0, 8))
    assert closed_loop(3, 1.0, server(), 60.0, 7).same(closed_loop(3, 1.0, server(), 60.0, 7))
    assert not closed_loop(3, 1.0, server(), 60.0, 7).same(closed_loop(3, 1.0, server(), 60.0, 8))


def test_users_wait_for_their_answers() -> None:
    """Each asks at most once in the time that an answer takes; who thinks longer asks less."""
    lengths = Lengths(context=10, context_spread=0, generated=50, generated_spread=0)
    one = closed_loop(1, 0.001, server(), 100.0, lengths=lengths)
    assert np.diff(one.arrival_seconds).min() >= 50 * 0.020
    assert one.rate == pytest.approx(1 / (50 * 0.0201), rel=0.05)
    assert closed_loop(1, 5.0, server(), 100.0, lengths=lengths).rate < 0.4 * one.rate
    assert closed_loop(10, 5.0, server(), 200.0, lengths=lengths).rate == pytest.approx(10 / 6.1, rel=0.15)


def test_more_users_than_can_be_served_settle_at_what_can() -> None:
    lengths = Lengths(context=400, context_spread=0, generated=1, generated_spread=0)
    many = closed_loop(50, 0.01, server(token_ms=1.0), 60.0, lengths=lengths)  # one at a time, 0.42 s each
    assert many.rate == pytest.approx(1 / 0.42, rel=0.4)  # with the first requests of all at once


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: poisson(0.0),
        lambda: poisson(float("nan")),
        lambda: poisson(1.0, seconds=0.0),
        lambda: poisson(1.0, seed=-1),
        lambda: poisson(1e9),
        lambda: closed_loop(0, 1.0, server()),
        lambda: closed_loop(True, 1.0, server()),
        lambda: closed_loop(1, 0.0, server()),
        lambda: closed_loop(1, 1.0, server(), seconds=-1.0),
        lambda: Lengths(context=0.5),
        lambda: Lengths(generated_spread=3.0),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(SettingError):
        wrong()


def test_a_time_in_which_nobody_came_is_no_workload() -> None:
    with pytest.raises(TraceError, match="1 to"):
        poisson(0.001, seconds=0.1)
    with pytest.raises(TraceError, match="1 to"):
        closed_loop(1, 1e6, server(), seconds=0.1)
