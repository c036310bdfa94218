"""The cloud of the simulated testbed: one forward at a time over whatever waits, planned by the scheduler of the verifier.

What does not live here: the devices (simulation.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from runtime.policies import Request
from runtime.scheduling import Scheduler, Slice
from traces.hat.run import Watch
from traces.hat.testbed import HISTORY, Testbed

Happens = Callable[[float], None]
"""Something that happens at a time, in seconds."""


class Average:
    """A moving average, as the paper's monitor keeps them."""

    def __init__(self, value: float) -> None:
        self.value = value

    def take(self, measured: float) -> None:
        """Take note of a measurement."""
        self.value = HISTORY * self.value + (1 - HISTORY) * measured


class Middle:
    """A cloud with nobody in it. First come, first served; what has come when a forward ends goes into the next."""

    def __init__(self, testbed: Testbed, at: Callable[[float, Happens], None], watch: Watch | None = None) -> None:
        """Begin idle.

        Args:
            testbed: for the time of a forward.
            at: lets something happen later.
            watch: sees the forwards.
        """
        self._testbed, self._at, self._watch = testbed, at, watch
        self._scheduler = Scheduler("fcfs", testbed.token_budget)
        self._done: dict[float, Happens] = {}
        self._running = False
        self.waiting = Average(0.0)
        """Seconds from a request's arrival to its forward."""
        self.busy_seconds = 0.0

    def take(self, now: float, tokens: int, tail: int, done: Happens) -> None:
        """Take hidden states to be run.

        Args:
            now: seconds.
            tokens: whose states they are.
            tail: of those the last so many go in one forward.
            done: called when the forward is over that runs the last of them.
        """
        request = Request(now, tokens, tail)
        self._scheduler.add(request)
        self._done[request.number] = done
        if not self._running:
            self._forward(now)

    def _forward(self, now: float) -> None:
        slices = self._scheduler.plan(now)
        tokens = sum([each.tokens for each in slices])
        end = now + self._testbed.forward_base_seconds + tokens * self._testbed.forward_token_seconds
        self.waiting.take(sum([now - each.request.arrived for each in slices]) / len(slices))
        self.busy_seconds += end - now
        self._running = True
        if self._watch is not None:
            self._watch.ran(now, end, tokens)
        self._at(end, lambda then: self._ran(slices, then))

    def _ran(self, slices: Sequence[Slice], now: float) -> None:
        self._scheduler.ran(slices)
        self._running = False
        for request, _ in slices:
            if not request.left:
                self._scheduler.remove(request)
                self._done.pop(request.number)(now)
        if len(self._scheduler):
            self._forward(now)
