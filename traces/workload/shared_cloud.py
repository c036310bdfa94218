"""A cloud that others use, as a device meets it: when a check would start, beside whom, at each moment of a workload's period.

What does not live here: the serving of the others (serving.py) and the formula of a check (meeting.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.policies import DEFAULT_POLICY
from runtime.scheduling import TOKEN_BUDGET, Scheduler, Slice
from traces.profile import CloudProfile
from traces.workload.meeting import meeting
from traces.workload.serving import PLACES, Job, Request, Server
from traces.workload.trace import Workload

CHECK_TOKENS = 8
"""Tokens that a check is taken to have where the server asks whether it fits into a batch; ours. Its time is that of its own tokens."""
MOST_FORWARDS = 20_000_000
"""Largest sum of a workload's forwards, by request, that is worked out; some minutes of work."""
_WARM_SECONDS = 60.0
"""The cloud begins idle so long before the period, with the requests of the period's end."""


class Met(NamedTuple):
    """What a check meets."""

    queue_seconds: float
    compute_seconds: float
    """Of the forward that it shares."""
    share_seconds: float
    """Its part of it, by tokens."""
    load: int
    """Those beside it in the forward, itself included, and those who wait at its end."""


@dataclass(frozen=True)
class SharedCloud:
    """The state of a cloud under a workload, over its period, which repeats; see :func:`traces.workload.meeting.meeting`.

    The check itself is not part of it: it delays nobody, and finds no trace of the checks before it. So it is a cloud of many, of
    whom one device is a small part.
    """

    workload: str
    """Name."""
    cloud: CloudProfile
    """Whose forwards it runs; the wait and the load that the profile states are not used."""
    seconds: float
    """Period."""
    refused: int
    """Of the workload's requests, those that found no place in the period."""
    edges: NDArray[np.float64]
    """[edges], in seconds of the period, the first not after 0."""
    starts: NDArray[np.float64]
    beside_tokens: NDArray[np.float64]
    beside_jobs: NDArray[np.float64]
    arrived: NDArray[np.float64]
    # Lists, as a single entry is read faster from a list than from an array.
    _series: tuple[list[float], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        series = (self.edges, self.starts, self.beside_tokens, self.beside_jobs, self.arrived)
        object.__setattr__(self, "_series", tuple(each.tolist() for each in series))

    @classmethod
    def of(
        cls,
        workload: Workload,
        cloud: CloudProfile,
        token_budget: int = TOKEN_BUDGET,
        policy: str = DEFAULT_POLICY,
        places: int = PLACES,
    ) -> Self:
        """Work out how a cloud serves a workload.

        Args:
            workload: the others.
            cloud: times of a forward.
            token_budget: most tokens in a forward.
            policy: who goes first; a name of `runtime.policies.POLICIES`.
            places: most requests at a time.

        Raises:
            SettingError: the workload has more tokens than are worked out, or the cloud takes no time.
        """
        forwards = int(np.maximum(1, workload.generated_tokens).sum())
        if forwards > MOST_FORWARDS:
            raise SettingError(
                f"workload {workload.name!r} has {forwards} forwards, and at most {MOST_FORWARDS} are worked out; take its first "
                "seconds, or thin it"
            )
        server = Server.of(cloud, token_budget, policy, places)
        watch = _Edges()
        known = refused = 0
        for at, *_ in server.serve(_around(workload), watch=watch):
            refused += server.refused > known and 0.0 <= at - _WARM_SECONDS < workload.seconds
            known = server.refused
        return cls(workload.name, cloud, workload.seconds, refused, *watch.series())

    def meets(self, at_seconds: float, tokens: int) -> Met:
        """Return what a check meets that comes so many seconds after the period's start, or a whole number of periods later."""
        c = self.cloud
        queue, compute, share, load = meeting(at_seconds % self.seconds, tokens, c.forward_ms, c.token_ms, *self._series)
        return Met(queue, compute, share, int(load))


def _around(workload: Workload) -> list[Request]:
    """The requests of a period and of the time around it, in seconds from the beginning of the time before it."""
    period = workload.seconds
    turns = int(_WARM_SECONDS / period) + 1
    around: list[Request] = []
    tokens = list(zip(workload.context_tokens.tolist(), workload.generated_tokens.tolist(), strict=True))
    for turn in range(-turns, turns + 1):
        arrival = workload.arrival_seconds + (turn * period + _WARM_SECONDS)
        inside = np.flatnonzero((arrival >= 0) & (arrival < period + 2 * _WARM_SECONDS))
        around += [(float(arrival[i]), *tokens[i]) for i in inside]
    return around


class _Edges:
    """Implements :class:`traces.workload.serving.Watch`: puts down, whenever anything changes, what a check would meet from then on.

    A check that comes at an edge stands for those that come until the next one. Before each forward the scheduler is asked whether
    those that wait would be in it; as who came later goes no earlier, the first that would not ends the asking.
    """

    def __init__(self) -> None:
        self._arrived = 0
        self._rows: list[list[float]] = [[0.0, 0.0, 0.0, 0.0, 0.0]]  # at, start, tokens and jobs beside, arrived
        self._waiting: deque[tuple[int, Job]] = deque()  # rows, each with its check

    def arrived(self, at: float, job: Job, scheduler: Scheduler) -> None:
        """See :class:`traces.workload.serving.Watch`."""
        self._arrived += 1
        self._edge(at, scheduler)

    def plans(self, at: float, scheduler: Scheduler) -> None:
        """See :class:`traces.workload.serving.Watch`."""
        there = sum([job.left for job in scheduler])
        while self._waiting:
            row, check = self._waiting[0]
            if there + CHECK_TOKENS > scheduler.token_budget:
                beside = scheduler.beside(check, at)
                if beside is None:
                    return
                tokens = sum(each.tokens for each in beside)
            else:
                tokens = there
            self._rows[row][1:4] = at, tokens, len(scheduler) - self._arrived
            self._waiting.popleft()

    def began(self, at: float, end: float, slices: Sequence[Slice], scheduler: Scheduler) -> None:
        """See :class:`traces.workload.serving.Watch`."""
        self._edge(at, scheduler)

    def idled(self, at: float, scheduler: Scheduler) -> None:
        """See :class:`traces.workload.serving.Watch`."""
        self._rows.append([at, at, 0.0, -self._arrived, self._arrived])
        while self._waiting:
            self._rows[self._waiting.popleft()[0]][1:4] = at, 0.0, -self._arrived

    def series(self) -> list[NDArray[np.float64]]:
        """The edges and what holds from each on, in seconds of the period: from the last edge before it."""
        rows = np.array(self._rows)
        rows[:, :2] -= _WARM_SECONDS
        first = int(np.searchsorted(rows[:, 0], 0.0, side="right")) - 1
        return [np.ascontiguousarray(column) for column in rows[first:].T]

    def _edge(self, at: float, scheduler: Scheduler) -> None:
        check = Job(at, CHECK_TOKENS, CHECK_TOKENS)
        scheduler.introduce(check)
        self._waiting.append((len(self._rows), check))
        self._rows.append([at, 0.0, 0.0, 0.0, self._arrived])
