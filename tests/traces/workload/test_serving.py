from __future__ import annotations

from collections.abc import Sequence

import pytest

from cloud.admission import Limits
from cloud.config import ServerConfig
from runtime.errors import SettingError
from runtime.policies import DEFAULT_POLICY
from runtime.scheduling import TOKEN_BUDGET, Scheduler, Slice
from traces.workload.serving import PLACES, Job, Request, Server


class Log:
    """Writes down each forward."""

    def __init__(self) -> None:
        self.forwards: list[tuple[float, float, list[int], int]] = []

    def arrived(self, at: float, job: Job, scheduler: Scheduler) -> None: ...

    def plans(self, at: float, scheduler: Scheduler) -> None: ...

    def idled(self, at: float, scheduler: Scheduler) -> None: ...

    def began(self, at: float, end: float, slices: Sequence[Slice], scheduler: Scheduler) -> None:
        self.forwards.append((round(at, 9), round(end, 9), [each.tokens for each in slices], len(scheduler) - len(slices)))


def served(
    requests: list[Request], budget: int = 100, places: int = 10, policy: str = "fcfs"
) -> list[tuple[float, float, list[int], int]]:
    log = Log()
    for _ in Server("test", 10.0, 1.0, budget, policy, places).serve(requests, watch=log):
        pass
    return log.forwards


def test_its_settings_are_those_of_the_server() -> None:
    defaults = ServerConfig.__dataclass_fields__
    assert (defaults["token_budget"].default, defaults["policy"].default) == (TOKEN_BUDGET, DEFAULT_POLICY)
    assert Limits().account_streams == PLACES
    assert Limits().max_streams >= 2 * PLACES  # so one client alone does get them


def test_a_request_is_read_whole_and_then_gets_a_token_a_forward() -> None:
    assert served([(1.0, 20, 3)]) == [(1.0, 1.03, [20], 0), (1.03, 1.041, [1], 0), (1.041, 1.052, [1], 0)]


def test_who_comes_during_a_forward_joins_the_next() -> None:
    forwards = served([(0.0, 20, 2), (0.01, 30, 1)])
    assert forwards == [(0.0, 0.03, [20], 0), (0.03, 0.071, [1, 30], 0)]


def test_what_does_not_fit_is_read_in_chunks() -> None:
    forwards = served([(0.0, 20, 1), (0.01, 90, 1), (0.012, 20, 1), (0.013, 5, 1)])
    assert [batch for _, _, batch, _ in forwards] == [[20], [90, 10], [10, 5]]
    assert [left for *_, left in forwards] == [0, 1, 0]
    assert [batch for _, _, batch, _ in served([(0.0, 250, 1), (0.0, 1, 1)])] == [[100], [100], [50, 1]]


def test_who_decodes_goes_before_who_reads_where_the_policy_says_so() -> None:
    forwards = served([(0.0, 10, 3), (0.001, 300, 1)], policy="verification_aware")
    assert [batch for _, _, batch, _ in forwards] == [[10], [1, 99], [1, 99], [100], [2]]


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
