"""One process of a load test: it connects, waits for the start, lets its actors act, and hands back what they wrote down.

What does not live here: the actors (_load_actors.py) and who starts it (_load.py).
"""

from __future__ import annotations

import asyncio
import gc
import selectors
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection

from runtime.answers import ModelInfo
from runtime.client import CloudClient
from runtime.credentials import Credentials
from runtime.errors import SyneraError
from scripts._load_actors import actors_of
from scripts._load_answers import Source
from scripts._load_desk import Desk
from scripts._load_plan import Plan, Target
from scripts._load_result import Samples

_MOST_STREAMS = 256
"""Generate requests that a process waits for at a time."""
_DRAIN_SECONDS = 5.0
"""How long requests under way at the end are waited for."""


@dataclass(frozen=True)
class Job:
    """What a process is to do."""

    target: Target
    plan: Plan
    info: ModelInfo
    source: Source
    place: int


def work(job: Job, pipe: Connection) -> None:
    """Say that all is ready, get the time to begin, drive, hand back the samples.

    Args:
        job: what to do.
        pipe: it sends None once ready, receives monotonic seconds, and sends :class:`Samples`, or the SyneraError that ended it.
    """
    clients = job.plan.connections_of_a_process(len(job.target.addresses))
    try:
        with ExitStack() as opened:
            connected = [
                opened.enter_context(CloudClient(address, credentials=Credentials(tls_ca=job.target.tls_ca)))
                for _ in range(clients)
                for address in job.target.addresses
            ]
            for client in connected:
                client.model_info()  # so that no connection is made within what is measured
            gc.collect()
            gc.freeze()  # a collection must not stop the load to look at what was there before
            pipe.send(None)
            desk = Desk(job.plan, connected, job.info, job.source, job.place, began=pipe.recv())
            pipe.send(_drive(desk))
    except SyneraError as error:
        pipe.send(error)


def work_alone(job: Job, pipe: Connection) -> None:
    """As `work`, as the main function of a process; Ctrl-C is its owner's business."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        work(job, pipe)
    except (BrokenPipeError, EOFError):
        return  # its owner has gone


def _drive(desk: Desk) -> Samples:
    # select() waits to the microsecond where epoll does to the millisecond; the loop watches one descriptor alone.
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    streams = ThreadPoolExecutor(_MOST_STREAMS, thread_name_prefix="stream")
    try:
        loop.run_until_complete(_act(desk, streams))
    finally:
        for client in desk.clients:
            client.close()  # which ends the streams that still run
        streams.shutdown()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        gc.unfreeze()
    return desk.samples


async def _act(desk: Desk, streams: ThreadPoolExecutor) -> None:
    tasks = [asyncio.create_task(each) for each in actors_of(desk, streams)]
    clock = asyncio.create_task(_watch(desk))
    left: Sequence[asyncio.Task[None]] = ()
    if tasks:
        left = list((await asyncio.wait(tasks, timeout=desk.ends + _DRAIN_SECONDS - time.monotonic()))[1])
    for task in left:
        task.cancel()
    desk.samples.counts["unanswered"] += len(left)
    await asyncio.gather(*left, return_exceptions=True)
    await clock
    for task in tasks:
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _watch(desk: Desk) -> None:
    """Take the process's CPU time of what is measured."""
    await asyncio.sleep(max(0.0, desk.measured_from - time.monotonic()))
    before = time.process_time()
    await asyncio.sleep(max(0.0, desk.ends - time.monotonic()))
    desk.samples.cpu_seconds = time.process_time() - before
