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
    """A cloud with nobody in it. First come, first served; what has come when a forward ends goes into the next, if it may.

    Chunks of prompts share forwards with tokens (as Sarathi: Agrawal et al., OSDI 2024); whole prompts do not, as in servers before
    chunks. The paper's note says of neither; that the rows of its table differ in this is ours.
    """

    def __init__(self, testbed: Testbed, mixed: bool, at: Callable[[float, Happens], None], watch: Watch | None = None) -> None:
        """Begin idle.

        Args:
            testbed: for the time of a forward.
            mixed: whether a forward may run both of a prompt and of what was begun.
            at: lets something happen later.
            watch: sees the forwards.
        """
        self._testbed, self._mixed, self._at, self._watch = testbed, mixed, at, watch
        self._scheduler = Scheduler("fcfs", testbed.token_budget)
        self._done: dict[float, Happens] = {}
        self._running = False
        self.waiting = Average(0.0)
        """Seconds from a request's arrival to its forward."""
        self.busy_seconds = 0.0

    def take(self, now: float, tokens: int, tail: int, begun: bool, done: Happens) -> None:
        """Take hidden states to be run.

        Args:
            now: seconds.
            tokens: whose states they are.
            tail: of those the last so many go in one forward.
            begun: whether the answer has tokens; else it is a prompt.
            done: called when the forward is over that runs the last of them.
        """
        request = Request(now, tokens, tail, check=begun)
        self._scheduler.add(request)
        self._done[request.number] = done
        if not self._running:
            self._forward(now)

    def _forward(self, now: float) -> None:
        first = next(iter(self._scheduler))
        slices = self._scheduler.plan(now, lambda request, _: self._mixed or request.check == first.check)
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
