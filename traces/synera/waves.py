"""Walkers that go side by side: each runs until it needs what only a server can give, and one wave serves all that then wait.

What does not live here: who walks (environments) and what is served (growing.py).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

from greenlet import getcurrent, greenlet

Found = TypeVar("Found")


class Server(Protocol):
    """What walkers wait for; many wants together cost little more than one."""

    def serve(self, wants: Sequence[Any]) -> None:
        """Do what each want asks for, all of it before returning."""
        ...


class _Walker(greenlet):
    """Does one task after the other, and may be suspended in each; its parent is who runs it beside others."""

    want: tuple[Server, Any]

    def __init__(self, tasks: deque[Callable[[], None]]) -> None:
        super().__init__()
        self._tasks = tasks

    def run(self) -> None:
        while self._tasks:
            self._tasks.popleft()()


def side_by_side(tasks: Sequence[Callable[[], Found]]) -> list[Found]:
    """Run tasks side by side in this thread, and return what they return.

    Each runs in its turn until it ends or waits (:func:`wait_for`). When all have, what they wait for is served in one
    wave, in the order of the tasks, and they go on in that order: what happens does not depend on time.

    Raises:
        BaseException: what a task or a server raises. The other tasks are ended where they wait, so that none is
            suspended for ever.
    """
    found: dict[int, Found] = {}

    def kept(place: int, task: Callable[[], Found]) -> None:
        found[place] = task()

    waiting: list[_Walker] = []
    left: deque[Callable[[], None]] = deque(partial(kept, place, task) for place, task in enumerate(tasks))
    try:
        while left:  # tasks that do not wait share a walker: to make one costs more than most of them
            waiting.append(_Walker(left))
            waiting[-1].switch()
        while waiting := [walker for walker in waiting if not walker.dead]:
            _serve([walker.want for walker in waiting])
            for walker in waiting:
                walker.switch()
    finally:
        for walker in waiting:
            if walker:  # it was begun and has not ended
                walker.throw()
    return [found[place] for place in range(len(tasks))]


def _serve(wanted: Sequence[tuple[Server, Any]]) -> None:
    """One wave: what each server is asked for, in the order in which it is asked first."""
    by_server: dict[int, tuple[Server, list[Any]]] = {}
    for server, want in wanted:
        by_server.setdefault(id(server), (server, []))[1].append(want)
    for server, wants in by_server.values():
        server.serve(wants)


def wait_for(server: Server, want: object) -> None:
    """Return when a server has done what is wanted: with the next wave within a task of `side_by_side`, else at once."""
    walker = getcurrent()
    if isinstance(walker, _Walker):
        walker.want = server, want
        walker.parent.switch()
    else:
        server.serve([want])
