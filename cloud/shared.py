"""Work that several callers may wait for, and that ends, unfinished, when the last of them goes away.

What does not live here: what the work is (openings.py, numbered.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from cloud.log import fields
from runtime.errors import SyneraError

_Outcome = TypeVar("_Outcome")
_log = logging.getLogger(__name__)


class Shared(Generic[_Outcome]):
    """A task and who waits for it. Used on one event loop."""

    def __init__(
        self,
        work: Coroutine[Any, Any, _Outcome],
        ended: Callable[[_Outcome | None], object] = lambda outcome: None,
        left: Callable[[], object] = lambda: None,
        watched: Callable[[], object] = lambda: None,
    ) -> None:
        """Begin.

        Args:
            work: what is waited for.
            ended: called once it is over, whichever way and before anybody who waits goes on; with what came of it, None
                where it failed or was dropped.
            left: called when it is dropped, which is before it has ended.
            watched: called when the first begins to wait for it, and when the last no longer does.
        """
        self._left, self._watched = left, watched
        self._task = asyncio.create_task(work)
        self._task.add_done_callback(lambda task: ended(_outcome(task)))
        self._dropped = False
        self.waiting = 0
        """Callers that wait for it."""

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._task.done()

    @property
    def dropped(self) -> bool:
        """Whether it was told to end unfinished; there is then nothing to wait for."""
        return self._dropped

    @property
    def failed(self) -> bool:
        """Whether it has ended by an error."""
        return self._task.done() and not self._task.cancelled() and self._task.exception() is not None

    @property
    def value(self) -> _Outcome | None:
        """What came of it; None where it is not over, failed or was dropped."""
        return _outcome(self._task) if self._task.done() else None

    def drop(self) -> None:
        """Have it end, unless it has."""
        if not self._dropped and not self._task.done():
            self._dropped = True
            self._task.add_done_callback(_unseen)
            self._task.cancel()
            self._left()

    def hold(self) -> None:
        """Wait for it from now on, whether or not in `result`, until `let_go`."""
        self.waiting += 1
        if self.waiting == 1:
            self._watched()

    def let_go(self) -> None:
        """Wait for it no longer; with the last who does, it is dropped."""
        self.waiting -= 1
        if not self.waiting:
            self.drop()
            self._watched()

    async def ended(self) -> None:
        """Wait until it has ended, whatever came of it."""
        await asyncio.wait([self._task])

    async def result(self) -> _Outcome | None:
        """Wait for it; None when it was dropped meanwhile, by another than those who wait.

        Raises:
            Exception: what it raised.

        Cancellation: it is dropped, unless another waits for it.
        """
        self.hold()
        try:
            await asyncio.wait([self._task])
        finally:
            self.let_go()
        return None if self._task.cancelled() else self._task.result()


def _outcome(task: asyncio.Task[_Outcome]) -> _Outcome | None:
    return None if task.cancelled() or task.exception() is not None else task.result()


def _unseen(task: asyncio.Task[Any]) -> None:
    """Log the error of work that nobody waited for, when it is a bug."""
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, SyneraError):
        _log.error("unwatched work failed", exc_info=error, extra=fields(reason=error))
