"""Many live devices side by side: each its own environment on its own thread, all on one verifier."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    """Answer a plan with so many devices at a time; see :func:`run_fleets`.

    Returns:
        One outcome a planned answer, in the plan's order.
    """
    return run_fleets(make_env, {"": controller}, plan, devices, on_answer)[""]


def run_fleets(
    make_env: Callable[[], DecisionEnv],
    controllers: Mapping[str, Controller],
    plan: Sequence[PlannedAnswer],
    devices: int,
    on_answer: Callable[[], None] = lambda: None,
) -> dict[str, list[Answered]]:
    """Answer a plan with each controller, with so many devices at a time.

    Each answer is given by all controllers in turn before the next one is begun, so that what slows a machine for a while slows all
    of them alike.

    Once a device fails the others stop, after the answer that each is at; every environment is closed.

    Args:
        make_env: makes a device's environment; called once a device, closed here.
        controllers: by name; each decides for all devices, so it must be thread-safe.
        plan: the answers; each device takes the next one of the next controller.
        devices: threads.
        on_answer: called after each answer.

    Returns:
        By controller one outcome a planned answer, in the plan's order.

    Raises:
        SettingError: fewer than one device.
        SyneraError: an environment could not be made; or whatever the first device that failed, failed with.
    """
    within("devices", devices, 1)
    work_list = [(name, place) for place in range(len(plan)) for name in controllers]
    outcomes: dict[tuple[str, int], Answered] = {}
    failures: list[BaseException] = []
    waiting = iter(work_list)
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
                        taken = next(waiting, None)
                    if taken is None:
                        break
                    name, place = taken
                    outcomes[taken] = answer(env, controllers[name], plan[place])
                    on_answer()
            env.close()

    with ThreadPoolExecutor(devices, thread_name_prefix="device") as pool:
        running = [pool.submit(work) for _ in range(min(devices, len(work_list)))]
        try:
            wait(running)
        finally:
            stop.set()  # on Ctrl-C too, devices finish the answer they are at
    if failures:
        raise failures[0]
    return {name: [outcomes[name, place] for place in range(len(plan))] for name in controllers}


def fleet_seconds(seconds: Sequence[float], devices: int) -> float:
    """Return how long so many devices take for answers of so many seconds, each device taking the next one of the plan."""
    free = [0.0] * devices
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)
