from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.admission import Limits
from cloud.config import ServerConfig
from cloud.engine.embedded.scheduler import Waiting, pick_fcfs
from runtime.errors import SettingError
from traces.workload.serving import PLACES, TOKEN_BUDGET, Job, Request, Server


class Log:
    """Writes down each forward."""

    def __init__(self) -> None:
        self.forwards: list[tuple[float, float, list[int], int]] = []

    def arrived(self, at: float, job: Job) -> None: ...

    def idled(self, at: float) -> None: ...

    def began(self, at: float, end: float, batch: Sequence[Job], queue: Sequence[Job]) -> None:
        self.forwards.append((round(at, 9), round(end, 9), [job.tokens for job in batch], len(queue)))


def served(requests: list[Request], budget: int = 100, places: int = 10) -> list[tuple[float, float, list[int], int]]:
    log = Log()
    for _ in Server("test", 10.0, 1.0, budget, places).serve(requests, watch=log):
        pass
    return log.forwards


def test_its_settings_are_those_of_the_server() -> None:
    assert (ServerConfig.__dataclass_fields__["token_budget"].default, Limits().account_streams) == (TOKEN_BUDGET, PLACES)
    assert Limits().max_streams >= 2 * PLACES  # so one client alone does get them


def test_a_request_is_read_whole_and_then_gets_a_token_a_forward() -> None:
    assert served([(1.0, 20, 3)]) == [(1.0, 1.03, [20], 0), (1.03, 1.041, [1], 0), (1.041, 1.052, [1], 0)]


def test_who_comes_during_a_forward_goes_before_those_in_it() -> None:
    forwards = served([(0.0, 20, 2), (0.01, 30, 1)])
    assert forwards == [(0.0, 0.03, [20], 0), (0.03, 0.071, [30, 1], 0)]


def test_what_does_not_fit_waits_and_is_not_overtaken() -> None:
    forwards = served([(0.0, 20, 1), (0.01, 90, 1), (0.012, 20, 1), (0.013, 5, 1)])
    assert [batch for _, _, batch, _ in forwards] == [[20], [90], [20, 5]]
    assert [left for *_, left in forwards] == [0, 2, 0]
    assert [batch for _, _, batch, _ in served([(0.0, 500, 1), (0.0, 1, 1)])] == [[500], [1]]


def test_who_finds_no_place_is_turned_away() -> None:
    server = Server("test", 10.0, 1.0, places=2)
    assert len(list(server.serve([(0.0, 5, 9), (0.0, 5, 9), (0.001, 5, 9), (5.0, 1, 1)]))) == 4
    assert server.refused == 1


def test_who_was_answered_or_turned_away_may_ask_again() -> None:
    over: list[float] = []

    def again(at: float) -> Request | None:
        over.append(round(at, 9))
        return (at + 1.0, 5, 1) if len(over) < 4 else None

    server = Server("test", 10.0, 1.0, places=1)
    came = list(server.serve([(0.0, 10, 2), (0.005, 5, 1)], again))
    assert over == [0.005, 0.031, 1.02, 1.046, 2.035]
    assert [round(at, 9) for at, *_ in came] == [0.0, 0.005, 1.005, 1.031, 2.02]
    assert server.refused == 1


@given(tokens=st.lists(st.integers(1, 60), min_size=1, max_size=30), budget=st.integers(1, 200))
def test_it_picks_as_the_engine_does(tokens: list[int], budget: int) -> None:
    server = Server("test", 1.0, 1.0, budget)
    jobs = [Job(each, 1) for each in tokens]
    server._queue = deque(jobs)
    batch, total = server._pick()
    picked = pick_fcfs([Waiting(i, each) for i, each in enumerate(tokens)], budget)
    assert batch == [jobs[i] for i in picked]
    assert total == sum(tokens[i] for i in picked)
    assert [*server._queue] == jobs[len(batch) :]


@pytest.mark.parametrize(
    "wrong",
    [
        {"forward_ms": -1.0},
        {"forward_ms": 0.0, "token_ms": 0.0},
        {"token_budget": 0},
        {"places": 0},
        {"token_ms": float("nan")},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        Server(**({"name": "x", "forward_ms": 1.0, "token_ms": 1.0} | wrong))  # type: ignore[arg-type]
