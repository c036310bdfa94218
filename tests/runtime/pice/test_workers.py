"""The edge pool: parts go to who has least to do, again to others where one fails or is slow, and each is written once."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from runtime.answers import GeneratedToken
from runtime.client import CloudClient
from runtime.errors import CloudRejectedError, CloudUnavailableError, SettingError
from runtime.pice.workers import NoWorkerError, Patience, Pool, Task

TASK = Task((1, 2, 3), 4)


@dataclass
class Worker:
    """Writes tokens once its gate is open; a closed stream ends as a cancelled call does."""

    error: Exception | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    asked: list[Sequence[int]] = field(default_factory=list)
    closed: threading.Event = field(default_factory=threading.Event)

    def generate(self, prompt: Sequence[int], max_new_tokens: int, sampling: Any, log_probabilities: bool) -> Any:
        assert log_probabilities
        self.asked.append(prompt)
        return Writing(self, max_new_tokens)


class Writing:
    def __init__(self, worker: Worker, count: int) -> None:
        self._worker, self._count, self._over = worker, count, threading.Event()

    def __iter__(self) -> Iterator[GeneratedToken]:
        while not self._worker.gate.wait(0.002):
            if self._over.is_set():
                raise CloudUnavailableError("it was cancelled")
        if self._worker.error is not None:
            raise self._worker.error
        for token in range(self._count):
            yield GeneratedToken(token, 0.0, 0.001, -0.5)

    def close(self) -> None:
        self._over.set()
        self._worker.closed.set()


def pool(*workers: Worker, **patience: float) -> Pool:
    return Pool(cast(list[CloudClient], list(workers)), Patience(**patience))


@pytest.fixture
def two() -> tuple[Worker, Worker]:
    return Worker(), Worker()


def test_a_task_is_written_with_its_log_probability(two: tuple[Worker, Worker]) -> None:
    for worker in two:
        worker.gate.set()
    edge = pool(*two)
    written = edge.submit(TASK).result(20)
    assert (written.tokens, written.log_probability) == ((0, 1, 2, 3), -2.0)
    assert 0 <= written.first_seconds <= written.seconds
    edge.close()


def test_who_has_least_to_do_is_asked_first(two: tuple[Worker, Worker]) -> None:
    edge = pool(*two)
    tasks = [edge.submit(TASK) for _ in range(6)]
    while sum(len(worker.asked) for worker in two) < 6:
        threading.Event().wait(0.002)
    assert [len(worker.asked) for worker in two] == [3, 3]
    for worker in two:
        worker.gate.set()
    assert {each.result(20).worker for each in tasks} == {0, 1}
    edge.close()


def test_what_one_fails_at_another_writes_and_the_first_is_left_alone(two: tuple[Worker, Worker]) -> None:
    two[0].error = CloudUnavailableError("no verifier answers")
    for worker in two:
        worker.gate.set()
    edge = pool(*two)
    assert edge.submit(TASK).result(20).worker == 1
    assert edge.available == 1
    assert [edge.submit(TASK).result(20).worker for _ in range(3)] == [1, 1, 1]
    assert len(two[0].asked) == 1
    edge.close()


def test_a_slow_workers_task_is_written_elsewhere_and_given_up_there(two: tuple[Worker, Worker]) -> None:
    two[1].gate.set()
    edge = pool(*two, first_seconds=0.05)
    assert edge.submit(TASK).result(20).worker == 1
    assert two[0].closed.wait(20)
    assert edge.available == 2  # it is slow, which is no failure
    edge.close()


def test_with_no_worker_left_the_task_says_so(two: tuple[Worker, Worker]) -> None:
    for number, worker in enumerate(two):
        worker.error = CloudUnavailableError(f"gone {number}")
        worker.gate.set()
    edge = pool(*two)
    with pytest.raises(NoWorkerError, match=r"none of 2 workers writes this part; the last one: gone"):
        edge.submit(TASK).result(20)
    with pytest.raises(NoWorkerError, match="none of 2 workers"):
        edge.submit(TASK).result(20)
    edge.close()


def test_what_is_refused_for_good_is_not_tried_elsewhere(two: tuple[Worker, Worker]) -> None:
    for worker in two:
        worker.error = CloudRejectedError("the prompt is too long")
        worker.gate.set()
    edge = pool(*two)
    with pytest.raises(CloudRejectedError, match="too long"):
        edge.submit(TASK).result(20)
    assert sum(len(worker.asked) for worker in two) == 1
    assert edge.available == 2
    edge.close()


def test_closing_gives_up_what_is_written_and_ends_all_threads(two: tuple[Worker, Worker]) -> None:
    before = threading.active_count()
    edge = pool(*two)
    tasks = [edge.submit(TASK) for _ in range(4)]
    while sum(len(worker.asked) for worker in two) < 4:
        threading.Event().wait(0.002)
    edge.close()
    assert all(isinstance(each.exception(20), CloudUnavailableError) for each in tasks)
    assert threading.active_count() == before


def test_a_pool_without_workers_is_refused() -> None:
    with pytest.raises(SettingError, match="workers=0"):
        Pool([])
    with pytest.raises(SettingError, match=r"times=0\.5"):
        Patience(times=0.5)
