"""How a batching cloud serves a workload: a model of the embedded engine (cloud/engine/embedded), request by request.

One forward at a time; each takes from the queue, first come first served, as many requests as the token budget holds. A request is read
whole in its first forward and gets a token from each; in between it goes to the queue's end, behind those who came during the forward.
What does not live here: what a check of a device meets there (shared_cloud.py), and the engine, which this follows.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from runtime.errors import SettingError
from runtime.settings import whole, within
from traces.profile import CloudProfile, forward_seconds
from traces.workload.trace import MOST_REQUESTS

TOKEN_BUDGET = 512
"""Most tokens in a forward of several requests; that of a server's default settings (cloud/config.py)."""
PLACES = 64
"""Most requests at a time; more are turned away. Likewise, of one client's streams (cloud/admission.py)."""
Request = tuple[float, int, int]
"""When it comes, in seconds, the tokens that it brings, and those that it is answered with."""
_Coming = tuple[float, int, Request]


@dataclass(slots=True, eq=False)
class Job:
    """A request in the queue or in a forward."""

    tokens: int
    """Of its next forward."""
    left: int
    """Forwards to go."""


class Watch(Protocol):
    """Sees what a server does, in the order of time."""

    def arrived(self, at: float, job: Job) -> None:
        """A request was taken, and stands at the queue's end."""
        ...

    def began(self, at: float, end: float, batch: Sequence[Job], queue: Sequence[Job]) -> None:
        """A forward over a batch; its jobs' `tokens` are those that it runs. The queue is what did not fit."""
        ...

    def idled(self, at: float) -> None:
        """A forward is over, and nobody is there."""
        ...


@dataclass
class Server:
    """A cloud with a profile's durations and nobody in it; it serves once.

    Raises:
        SettingError: a value out of the range that is stated beside it.
    """

    name: str
    forward_ms: float
    token_ms: float
    token_budget: int = TOKEN_BUDGET
    """1 to 1e6."""
    places: int = PLACES
    """1 to 1e5."""
    refused: int = field(default=0, init=False)
    """Requests that were turned away."""
    _queue: deque[Job] = field(default_factory=deque, init=False, repr=False)
    _inside: int = field(default=0, init=False, repr=False)
    _numbers: Iterator[int] = field(default_factory=lambda: count(MOST_REQUESTS), init=False, repr=False)

    def __post_init__(self) -> None:
        within("forward_ms", self.forward_ms, 0.0)
        within("token_ms", self.token_ms, 0.0)
        whole("token_budget", self.token_budget, 1, 1_000_000)
        whole("places", self.places, 1, 100_000)
        if not self.forward_ms and not self.token_ms:
            raise SettingError(f"the cloud {self.name!r} takes no time at all; a workload does nothing to it")

    @classmethod
    def of(cls, cloud: CloudProfile, token_budget: int = TOKEN_BUDGET, places: int = PLACES) -> Server:
        """Take the durations of a profile; its queue and load are left out, as they come about here."""
        return cls(cloud.name, cloud.forward_ms, cloud.token_ms, token_budget, places)

    def serve(
        self, requests: Sequence[Request], again: Callable[[float], Request | None] | None = None, watch: Watch | None = None
    ) -> Iterator[Request]:
        """Serve requests, and those that follow from them; yields each as it comes, also those that are turned away.

        Args:
            requests: in any order; of several at one time the first is served first.
            again: called when a request is over, with the time: the next of the same user, not earlier; None for no more.
            watch: sees it.
        """
        # The number keeps those of one time in their order.
        coming, now = [(request[0], number, request) for number, request in enumerate(requests)], 0.0
        heapq.heapify(coming)
        while coming or self._queue:
            if not self._queue:
                now = max(now, coming[0][0])
            yield from self._take(coming, now, again, watch)
            batch, tokens = self._pick()
            end = now + forward_seconds(self.forward_ms, self.token_ms, tokens)
            if watch is not None:
                watch.began(now, end, batch, self._queue)
            yield from self._take(coming, end, again, watch)
            for job in batch:
                job.tokens, job.left = 1, job.left - 1
                if job.left > 0:
                    self._queue.append(job)
                else:
                    self._inside -= 1
                    if again is not None and (following := again(end)) is not None:
                        heapq.heappush(coming, (following[0], next(self._numbers), following))
            now = end
            if watch is not None and not self._queue:
                watch.idled(now)

    def _take(
        self, coming: list[_Coming], until: float, again: Callable[[float], Request | None] | None, watch: Watch | None
    ) -> Iterator[Request]:
        """Take those who have come by then, as many as there are places for."""
        while coming and coming[0][0] <= until:
            request = heapq.heappop(coming)[2]
            at, context, generated = request
            if self._inside < self.places:
                self._inside += 1
                job = Job(max(1, context), max(1, generated))
                self._queue.append(job)
                if watch is not None:
                    watch.arrived(at, job)
            else:
                self.refused += 1
                if again is not None and (following := again(at)) is not None:
                    heapq.heappush(coming, (following[0], next(self._numbers), following))
            yield request

    def _pick(self) -> tuple[list[Job], int]:
        """Take the next batch from the queue, as `cloud.engine.embedded.scheduler.pick_fcfs` does, and count its tokens."""
        queue, budget = self._queue, self.token_budget
        first = queue.popleft()
        batch, tokens = [first], first.tokens
        while queue and tokens + queue[0].tokens <= budget:
            job = queue.popleft()
            batch.append(job)
            tokens += job.tokens
        return batch, tokens
