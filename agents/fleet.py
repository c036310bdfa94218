"""Many live devices side by side: each its own environment on its own thread, all on one verifier."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager

from agents.base import Controller
from agents.evaluation import Answered, PlannedAnswer, answer
from runtime.settings import within
from synera_env import DecisionEnv


def run_fleet(
    make_env: Callable[[], DecisionEnv],
    controller: Controller,
    plan: Sequence[PlannedAnswer],
    devices: int,
    on_answer: Callable[[], None] = lambda: None,
) -> list[Answered]:
    """Answer a plan with so many devices at a time.

    Once a device fails the others stop, after the answer that each is at; every environment is closed.

    Args:
        make_env: makes a device's environment; called once a device, closed here.
        controller: decides for all of them; must be thread-safe.
        plan: the answers; each device takes the next one.
        devices: threads.
        on_answer: called after each answer.

    Returns:
        One outcome a planned answer, in the plan's order.

    Raises:
        SettingError: fewer than one device.
        SyneraError: an environment could not be made; or whatever the first device that failed, failed with.
    """
    within("devices", devices, 1)
    outcomes: dict[int, Answered] = {}
    failures: list[BaseException] = []
    waiting = iter(enumerate(plan))
    lock, stop = threading.Lock(), threading.Event()

    @contextmanager
    def noticed() -> Iterator[None]:
        try:
            yield
        except BaseException as failure:
            failures.append(failure)
            stop.set()

    def work() -> None:
        with noticed():
            env = make_env()
            with noticed():
                while not stop.is_set():
                    with lock:
                        index, planned = next(waiting, (-1, None))
                    if planned is None:
                        break
                    outcomes[index] = answer(env, controller, planned)
                    on_answer()
            env.close()

    with ThreadPoolExecutor(devices, thread_name_prefix="device") as pool:
        running = [pool.submit(work) for _ in range(min(devices, len(plan)))]
        try:
            wait(running)
        finally:
            stop.set()  # on Ctrl-C too, devices finish the answer they are at
    if failures:
        raise failures[0]
    return [outcomes[i] for i in range(len(plan))]


def fleet_seconds(seconds: Sequence[float], devices: int) -> float:
    """Return how long so many devices take for answers of so many seconds, each device taking the next one of the plan."""
    free = [0.0] * devices
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)
