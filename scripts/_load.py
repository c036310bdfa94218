"""A load test: emulated devices and other users drive a verifier from processes of their own, and figures are made of it.

:func:`drive` is what commands and benches call. What does not live here: the plan (_load_plan.py), what is asked (_load_actors.py),
the figures (_load_result.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from runtime.answers import ModelInfo
from runtime.client import CloudClient
from runtime.credentials import Credentials
from runtime.errors import SyneraError
from scripts._load_answers import Scripts, scripts_of
from scripts._load_machine import CpuTimes
from scripts._load_plan import Plan, Target
from scripts._load_result import LoadResult, Measured, Samples, sum_up
from scripts._load_worker import Job, work_alone

_AHEAD_SECONDS = 0.05
"""From when all processes are ready to the start."""
_TICK_SECONDS = 0.1
_SLOWEST_SECONDS = 90.0
"""How long processes may take to start, and to hand back their samples after the end."""


class LoadError(SyneraError):
    """The load generator itself failed."""


def drive(target: Target, plan: Plan, tick: Callable[[float], object] = lambda seconds: None) -> LoadResult:
    """Drive a verifier by a plan, and sum up.

    Args:
        target: the verifier.
        plan: the load.
        tick: called about ten times a second with the seconds that are over, warm-up included; what it raises ends the load.

    Raises:
        CloudError: no verifier answers at an address.
        TraceError: graphs or profile cannot be used.
        LoadError: a process of the load generator ended by itself.
    """
    info = served(target)
    scripts = scripts_for(info, plan)
    source = None if scripts is None else scripts.answers
    with ExitStack() as stack:
        pipes = [
            stack.enter_context(process(work_alone, Job(target, plan, info, source, n), f"load {n}"))
            for n in range(plan.processes)
        ]
        for pipe in pipes:
            received(pipe, time.monotonic() + _SLOWEST_SECONDS)
        began = time.monotonic() + _AHEAD_SECONDS
        for pipe in pipes:
            pipe.send(began)
        measured_from, ends = began + plan.warmup_seconds, began + plan.warmup_seconds + plan.seconds
        _pass(pipes, began, measured_from, tick)
        before, first = CpuTimes.now(target.pid), time.monotonic()
        _pass(pipes, began, ends, tick)
        machine, verifier = CpuTimes.now(target.pid).since(before, time.monotonic() - first)
        samples: list[Samples] = [received(pipe, ends + _SLOWEST_SECONDS) for pipe in pipes]
    measured = Measured(
        load=plan.load,
        open_loop=plan.arrivals is not None,
        drafts=told(info, scripts, plan),
        began=measured_from,
        seconds=plan.seconds,
        cores=os.cpu_count() or 1,
        verifier_cores=verifier,
        machine_cores=machine,
    )
    return sum_up(samples, measured)


def scripts_for(info: ModelInfo, plan: Plan) -> Scripts | None:
    """The answers that a verifier can be held to: None where it serves another LLM than that of the graphs, or there are none."""
    if plan.graphs is None:
        return None
    scripts = scripts_of(plan.graphs, plan.knobs, plan.profile)
    return scripts if scripts.llm_fingerprint == info.fingerprint else None


def told(info: ModelInfo, scripts: Scripts | None, plan: Plan) -> str:
    """Where the drafts come from, and what that means, for a reader."""
    if scripts is not None:
        return (
            f"walks over {len(scripts.answers)} recorded graphs ({scripts.source}; {scripts.left_out} left out); each verdict is held "
            "against the graph's LLM"
        )
    why = "no graphs are given" if plan.graphs is None else f"{plan.graphs} was recorded with another LLM than {info.model}"
    return f"made up, as {why}: few drafts are accepted, and no verdict can be checked"


def served(target: Target) -> ModelInfo:
    """Ask what all addresses serve.

    Raises:
        CloudError: one does not answer.
        LoadError: they serve different models.
    """
    served = []
    for address in target.addresses:
        with CloudClient(address, credentials=Credentials(tls_ca=target.tls_ca)) as client:
            served.append(client.model_info())
    if len({info.fingerprint for info in served}) > 1:
        raise LoadError(f"{', '.join(target.addresses)} serve different models; name replicas of one")
    return served[0]


class process:
    """A process of the load generator, which is handed a job and a pipe; when the block is left in whatever way, it is over."""

    def __init__(self, run: Callable[[Any, Connection], None], job: object, name: str) -> None:
        context = get_context("spawn")  # gRPC survives no fork
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=run, args=(job, theirs), name=name, daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> Connection:
        return self._ours

    def kill(self) -> None:
        """Have it end at once, whatever it is doing, as one that crashes does."""
        self._process.kill()

    def __exit__(self, *_: object) -> None:
        self._process.join(0.5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._ours.close()


def _pass(pipes: Sequence[Connection], began: float, until: float, tick: Callable[[float], object]) -> None:
    """Let time pass, unless a process has something to say before its time."""
    while (left := until - time.monotonic()) > 0:
        tick(max(0.0, time.monotonic() - began))
        said = wait(pipes, min(left, _TICK_SECONDS))
        if time.monotonic() >= until:
            break  # what a process says now it says in time; it stays in its pipe
        for pipe in said:
            found = received(pipe, time.monotonic())  # type: ignore[arg-type]
            raise LoadError(f"a process of the load generator was over before its time with {type(found).__name__}")
    tick(until - began)


def received(pipe: Connection, until: float) -> Any:
    """What a process sends next.

    Raises:
        SyneraError: that which ended it.
        LoadError: it ended without a word, or says nothing.
    """
    if not pipe.poll(max(0.0, until - time.monotonic())):
        raise LoadError(f"a process of the load generator said nothing within {_SLOWEST_SECONDS:g} s; drive a smaller load")
    try:
        found = pipe.recv()
    except (EOFError, ConnectionResetError):
        raise LoadError("a process of the load generator ended by itself; its trace is above") from None
    if isinstance(found, SyneraError):
        raise found
    return found
