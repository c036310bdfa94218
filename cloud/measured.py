"""An engine that tells what it does, and can be drained: the seam of engine/base.py around another engine.

What does not live here: the figures (metrics.py), and what sessions cost (kept and logged by sessions.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from cloud.cost import Cost
from cloud.engine.base import Check, Checked, Chunk, Engine, EngineInfo, EngineUsage, Iteration, Ran, Streamed
from cloud.log import fields
from cloud.metrics import Metrics
from runtime.errors import CloudUnavailableError
from runtime.sampling import Sampling

_log = logging.getLogger(__name__)


class MeasuredEngine:
    """Implements :class:`cloud.engine.base.Engine` by another engine, whose work it counts.

    Sessions and streams can be kept out from some time on; those that are there go on.
    """

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine, self._metrics = engine, metrics
        self._open: set[str] = set()
        self._streams = 0
        self._closed: str | None = None
        metrics.sessions.set_function(lambda: len(self._open))
        metrics.streams.set_function(lambda: self._streams)

    @property
    def held(self) -> int:
        """Sessions and streams that are there."""
        return len(self._open) + self._streams

    def admit_no_more(self, why: str) -> None:
        """Answer whoever wants a session or a stream from now on with CloudUnavailableError."""
        self._closed = why

    @property
    def info(self) -> EngineInfo:
        """See :class:`cloud.engine.base.Engine`."""
        return self._engine.info

    @property
    def pid(self) -> int:
        """See :class:`cloud.engine.base.Engine`."""
        return self._engine.pid

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
        self._check_admitting()
        self._open.add(session_id)  # before the engine has it: a close meanwhile must not come too early
        await self._engine.open(session_id, account)

    async def check(self, session_id: str, check: Check) -> Checked:
        """See :class:`cloud.engine.base.Engine`."""
        checked = await self._engine.check(session_id, check)
        self._metrics.checked(len(check.draft), checked)
        return checked

    async def forward(self, session_id: str, chunk: Chunk) -> Ran:
        """See :class:`cloud.engine.base.Engine`."""
        ran = await self._engine.forward(session_id, chunk)
        self._metrics.forwarded(chunk, ran)
        return ran

    async def stream(
        self,
        prompt: Sequence[int],
        max_new_tokens: int,
        sampling: Sampling | None = None,
        account: str = "",
        log_probabilities: bool = False,
    ) -> AsyncGenerator[Streamed, None]:
        """See :class:`cloud.engine.base.Engine`."""
        self._check_admitting()
        cost, how, began = Cost(), "left", time.monotonic()  # by its reader, or because the engine failed
        self._streams += 1
        try:
            async with aclosing(self._engine.stream(prompt, max_new_tokens, sampling, account, log_probabilities)) as tokens:
                async for token in tokens:
                    self._metrics.streamed(token)
                    cost.add(token)
                    yield token
            how = "over"
        finally:
            self._streams -= 1
            seconds = round(time.monotonic() - began, 3)
            _log.info("stream ended", extra=fields(account=account, how=how, **cost.told(), open_seconds=seconds))

    async def close(self, session_id: str) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._open.discard(session_id)
        await self._engine.close(session_id)

    def _check_admitting(self) -> None:
        if self._closed is not None:
            raise CloudUnavailableError(self._closed)
