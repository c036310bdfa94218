"""Many live devices side by side: each its own environment on its own thread, all on one verifier."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from agents.base import Controller
from agents.evaluation import Answered, PlannedAnswer, answer
from synera_env import DecisionEnv


def run_fleet(
    make_env: Callable[[], DecisionEnv],
    controller: Controller,
    plan: Sequence[PlannedAnswer],
    devices: int,
    on_answer: Callable[[], None] = lambda: None,
) -> list[Answered]:
    """Answer a plan with so many devices at a time.

    Args:
        make_env: makes a device's environment; called once a device, closed here.
        controller: decides for all of them; must be thread-safe.
        plan: the answers; each device takes the next one.
        devices: threads.
        on_answer: called after each answer.

    Returns:
        One outcome a planned answer, in the plan's order.

    Raises:
        SyneraError: an environment could not be made.
    """
    outcomes: dict[int, Answered] = {}
    waiting = iter(enumerate(plan))
    lock, stop = threading.Lock(), threading.Event()

    def work() -> None:
        env = make_env()
        try:
            while not stop.is_set():
                with lock:
                    index, planned = next(waiting, (-1, None))
                if planned is None:
                    return
                outcomes[index] = answer(env, controller, planned)
                on_answer()
        finally:
            env.close()

    with ThreadPoolExecutor(devices, thread_name_prefix="device") as pool:
        running = [pool.submit(work) for _ in range(min(devices, len(plan)))]
        try:
            for each in running:
                each.result()
        finally:
            stop.set()  # on an error or Ctrl-C, devices finish the answer they are at
    return [outcomes[i] for i in range(len(plan))]
