"""An engine that tells what it does: the seam of engine/base.py around another engine, with the figures of metrics.py.

What does not live here: the figures themselves, and what its sessions cost (cost.py, kept by sessions.py).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from cloud.engine.base import Check, Checked, Engine, EngineInfo, EngineUsage, Iteration, Streamed
from cloud.metrics import Metrics
from runtime.errors import CloudUnavailableError
from runtime.sampling import Sampling


class MeasuredEngine:
    """Implements :class:`cloud.engine.base.Engine` by another engine, whose work it counts."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine, self._metrics = engine, metrics
        self._open: set[str] = set()
        metrics.sessions.set_function(lambda: len(self._open))

    @property
    def info(self) -> EngineInfo:
        """See :class:`cloud.engine.base.Engine`."""
        return self._engine.info

    @property
    def usage(self) -> EngineUsage:
        """See :class:`cloud.engine.base.Engine`."""
        return self._engine.usage

    def watch(self, watcher: Callable[[Iteration], None]) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._engine.watch(watcher)

    async def start(self) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        await self._engine.start()

    async def stop(self) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._open.clear()
        await self._engine.stop()

    async def failed(self) -> CloudUnavailableError:
        """See :class:`cloud.engine.base.Engine`."""
        return await self._engine.failed()

    async def open(self, session_id: str, account: str = "") -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._open.add(session_id)  # before the engine has it: a close meanwhile must not come too early
        await self._engine.open(session_id, account)

    async def check(self, session_id: str, check: Check) -> Checked:
        """See :class:`cloud.engine.base.Engine`."""
        checked = await self._engine.check(session_id, check)
        self._metrics.checked(len(check.draft), checked)
        return checked

    async def stream(
        self, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling | None = None, account: str = ""
    ) -> AsyncGenerator[Streamed, None]:
        """See :class:`cloud.engine.base.Engine`."""
        with self._metrics.streams.track_inprogress():
            async with aclosing(self._engine.stream(prompt, max_new_tokens, sampling, account)) as tokens:
                async for token in tokens:
                    self._metrics.streamed(token)
                    yield token

    async def close(self, session_id: str) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._open.discard(session_id)
        await self._engine.close(session_id)
