"""How a batching cloud serves a workload: what the embedded engine (cloud/engine/embedded) does, request by request, without a model.

One forward at a time, planned by the very scheduler of the engine. A request brings a prompt, which may be read in chunks, and gets a
token from the forward that ends it and from each later one. What does not live here: what a check of a device meets there
(shared_cloud.py), who goes first (runtime/policies.py), and the engine's memory, which is taken to have room for all.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from runtime.errors import SettingError
from runtime.policies import DEFAULT_POLICY
from runtime.policies import Request as Job
from runtime.scheduling import TOKEN_BUDGET, Scheduler, Slice
from runtime.settings import whole, within
from traces.profile import CloudProfile, forward_seconds
from traces.workload.trace import MOST_REQUESTS

PLACES = 64
"""Most requests at a time; more are turned away. As many as one client of a server may have streams (cloud/admission.py)."""
Request = tuple[float, int, int]
"""When it comes, in seconds, the tokens that it brings, and those that it is answered with."""
_Coming = tuple[float, int, Request]


class Watch(Protocol):
    """Sees what a server does, in the order of time."""

    def arrived(self, at: float, job: Job, scheduler: Scheduler) -> None:
        """A request was taken."""
        ...

    def plans(self, at: float, scheduler: Scheduler) -> None:
        """The next forward is about to be planned."""
        ...

    def began(self, at: float, end: float, slices: Sequence[Slice], scheduler: Scheduler) -> None:
        """A forward over these parts of those who are there."""
        ...

    def idled(self, at: float, scheduler: Scheduler) -> None:
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
    policy: str = DEFAULT_POLICY
    """Who goes first; a name of `runtime.policies.POLICIES`."""
    places: int = PLACES
    """1 to 1e5."""
    refused: int = field(default=0, init=False)
    """Requests that were turned away."""
    _scheduler: Scheduler = field(init=False, repr=False)
    _left: dict[float, int] = field(default_factory=dict, init=False, repr=False)  # tokens to answer, by number
    _numbers: Iterator[int] = field(default_factory=lambda: count(MOST_REQUESTS), init=False, repr=False)

    def __post_init__(self) -> None:
        within("forward_ms", self.forward_ms, 0.0)
        within("token_ms", self.token_ms, 0.0)
        self._scheduler = Scheduler(self.policy, self.token_budget)
        whole("places", self.places, 1, 100_000)
        if not self.forward_ms and not self.token_ms:
            raise SettingError(f"the cloud {self.name!r} takes no time at all; a workload does nothing to it")

    @classmethod
    def of(
        cls, cloud: CloudProfile, token_budget: int = TOKEN_BUDGET, policy: str = DEFAULT_POLICY, places: int = PLACES
    ) -> Server:
        """Take the durations of a profile; its queue and load are left out, as they come about here."""
        return cls(cloud.name, cloud.forward_ms, cloud.token_ms, token_budget, policy, places)

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
        scheduler = self._scheduler
        while coming or len(scheduler):
            if not len(scheduler):
                now = max(now, coming[0][0])
            yield from self._take(coming, now, again, watch)
            if watch is not None:
                watch.plans(now, scheduler)
            slices = scheduler.plan(now)
            end = now + forward_seconds(self.forward_ms, self.token_ms, sum(each.tokens for each in slices))
            if watch is not None:
                watch.began(now, end, slices, scheduler)
            yield from self._take(coming, end, again, watch)
            for _ in self._run(slices):
                if again is not None and (following := again(end)) is not None:
                    heapq.heappush(coming, (following[0], next(self._numbers), following))
            now = end
            if watch is not None and not len(scheduler):
                watch.idled(now, scheduler)

    def _run(self, slices: Sequence[Slice]) -> Iterator[Job]:
        """Take note of a forward; yields the requests that are over."""
        self._scheduler.ran(slices)
        for job, _ in slices:
            if job.left:
                continue
            self._left[job.number] -= 1
            if self._left[job.number] > 0:
                self._scheduler.goes_on(job, 1)
            else:
                del self._left[job.number]
                self._scheduler.remove(job)
                yield job

    def _take(
        self, coming: list[_Coming], until: float, again: Callable[[float], Request | None] | None, watch: Watch | None
    ) -> Iterator[Request]:
        """Take those who have come by then, as many as there are places for."""
        while coming and coming[0][0] <= until:
            _, number, request = heapq.heappop(coming)
            at, context, generated = request
            if len(self._scheduler) < self.places:
                job = Job(at, max(1, context), check=False, account=str(number))  # each of a user of its own
                self._scheduler.add(job)
                self._left[job.number] = max(1, generated)
                if watch is not None:
                    watch.arrived(at, job, self._scheduler)
            else:
                self.refused += 1
                if again is not None and (following := again(at)) is not None:
                    heapq.heappush(coming, (following[0], next(self._numbers), following))
            yield request
