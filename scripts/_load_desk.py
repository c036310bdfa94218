"""What every actor of a load test works with: the time, the connections, calls that are awaited, and the samples.

What does not live here: who acts (_load_actors.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.answers import ModelInfo
from runtime.client import Asked, CloudClient, retry_seconds
from runtime.errors import BadAnswerError, CloudBusyError, LateError, SyneraError
from runtime.wire.statuses import STATUS
from scripts._load_answers import Source
from scripts._load_plan import Plan
from scripts._load_result import Samples

MOST_TRIES = 8
"""How often a request is made in all before its answer is given up."""
_LONGEST_WAIT_SECONDS = 30.0
"""No wait that a verifier asks for is longer."""


@dataclass
class Desk:
    """One process's part of a load."""

    plan: Plan
    clients: Sequence[CloudClient]
    info: ModelInfo
    source: Source
    place: int
    """Number of the process, from 0."""
    began: float
    """Monotonic seconds when the load begins; what is measured begins after the warm-up."""
    samples: Samples = field(default_factory=Samples)

    @property
    def measured_from(self) -> float:
        """When what is measured begins."""
        return self.began + self.plan.warmup_seconds

    @property
    def ends(self) -> float:
        """When it ends; nothing new is asked for afterwards."""
        return self.measured_from + self.plan.seconds

    def measured(self, at: float) -> bool:
        """Whether a time belongs to what is measured."""
        return self.measured_from <= at < self.ends

    def client(self, number: int) -> CloudClient:
        """The connection of a device or user."""
        return self.clients[number % len(self.clients)]

    def count(self, what: str, at: float, number: int = 1) -> None:
        """Count what happened then, if that is measured."""
        if self.measured(at):
            self.samples.counts[what] += number

    def sent(self, meant_at: float) -> None:
        """A request is sent now that was meant to be sent then."""
        now = time.monotonic()
        if self.measured(meant_at):
            self.samples.late_seconds.append(now - meant_at)
        self.count("requests", now)

    def failed(self, error: SyneraError) -> None:
        """A request came to nothing."""
        if not self.measured(time.monotonic()):
            return
        if isinstance(error, CloudBusyError):
            told = "with" if error.retry_after_seconds is not None else "without"
            self.samples.refusals[f"{status_of(error)}, {told} a time to try again"] += 1
        else:
            self.samples.errors[status_of(error)] += 1


def status_of(error: SyneraError) -> str:
    """The gRPC status that an error came as; where no status was at fault, what was."""
    if isinstance(error, LateError):
        return "DEADLINE_EXCEEDED"
    if isinstance(error, BadAnswerError):
        return "an answer that makes no sense"
    return next((STATUS[kind].name for kind in type(error).__mro__ if kind in STATUS), type(error).__name__)


def wait_seconds(error: SyneraError, tries: int) -> float:
    """How long to wait before a request that failed for the n-th time is made again: as the verifier said, else longer each time."""
    told = error.retry_after_seconds if isinstance(error, CloudBusyError) else None
    return min(retry_seconds(tries) if told is None else max(0.0, told), _LONGEST_WAIT_SECONDS)


async def until(at: float) -> None:
    """Wait for a time, monotonic seconds."""
    if (left := at - time.monotonic()) > 0:
        await asyncio.sleep(left)


async def call(client: CloudClient, method: str, request: Any, seconds: float) -> tuple[Any, float]:
    """Make a call; return its answer, and when that came, before this process found the time to look at it.

    Raises:
        SyneraError: it failed.
    """
    loop = asyncio.get_running_loop()
    over: asyncio.Future[tuple[Asked, float]] = loop.create_future()

    def on_end(asked: Asked) -> None:
        at = time.monotonic()
        if not loop.is_closed():
            loop.call_soon_threadsafe(_settle, over, (asked, at))

    asked = client.ask(method, request, seconds, on_end)
    try:
        done, at = await over
    except asyncio.CancelledError:
        asked.cancel()
        raise
    return done.answer(), at


def _settle(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


async def stream(run: Callable[[], Any], threads: Any) -> Any:
    """Do what waits for a stream, on a thread of its own."""
    return await asyncio.get_running_loop().run_in_executor(threads, run)
