"""A thread that does what it is given in order, and other things when their time comes.

What does not live here: what that is (talk.py).
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import queue
import threading
from collections.abc import Callable
from itertools import count

from runtime.clock import Clock

Work = Callable[[], object]
_log = logging.getLogger(__name__)


class Agenda:
    """From its making until `end`. `put` is for any thread, `at` and `clear` are for what it does."""

    def __init__(self, name: str, clock: Clock, died: Callable[[BaseException], object]) -> None:
        """Begin.

        Args:
            name: of the thread.
            clock: of `at`.
            died: called, on the thread, with what a work raised; nothing is done after that.
        """
        self._clock, self._died = clock, died
        self._inbox: queue.SimpleQueue[Work] = queue.SimpleQueue()
        self._timers: list[tuple[float, int, Work]] = []
        self._numbers = count()
        self._over = False
        self._thread = threading.Thread(target=self._live, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether what is put is done."""
        return not self._over

    def put(self, work: Work) -> None:
        """Have something done."""
        self._inbox.put(work)

    def at(self, when: float, work: Work) -> None:
        """Have something done at a time of the clock."""
        heapq.heappush(self._timers, (when, next(self._numbers), work))

    def clear(self) -> None:
        """Do nothing of what was to be done at a time."""
        self._timers.clear()

    def end(self) -> None:
        """Do what was put before, and end; waits for it."""
        self.put(self._end)
        self._thread.join()

    def _end(self) -> None:
        self._over = True

    def _live(self) -> None:
        try:
            while not self._over:
                self._step()
        except BaseException as error:  # nobody may be left waiting for a thread that is gone
            self._over = True
            _log.exception("the thread that talks to the cloud died")
            self._died(error)

    def _step(self) -> None:
        wait = max(0.0, self._timers[0][0] - self._clock.now()) if self._timers else None
        work: Work | None = None
        with contextlib.suppress(queue.Empty):
            work = self._inbox.get(timeout=wait)
        if work is not None:
            work()
        now, last = self._clock.now(), next(self._numbers)
        while self._timers and self._timers[0][0] <= now and self._timers[0][1] < last:  # and then what was put meanwhile
            heapq.heappop(self._timers)[2]()
