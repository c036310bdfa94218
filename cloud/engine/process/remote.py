"""The server's side of an engine in a process of its own: every call is a message, every result another.

What does not live here: the process (worker.py) and the bytes between (channel.py).
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from cloud import log
from cloud.engine.base import Check, Checked, Chunk, EngineInfo, EngineUsage, Iteration, Ran, Streamed
from cloud.engine.process.channel import Channel, receive_now, send_now
from runtime.errors import CloudUnavailableError
from runtime.sampling import Sampling

if TYPE_CHECKING:
    from cloud.config import ServerConfig

_END_SECONDS = 10.0
"""How long the process may take to end once it was told to; then it is killed."""
_CODE_SECONDS = 1.0
"""How long its exit code may take to be there once it has gone."""


class EngineProcess:
    """Implements :class:`cloud.engine.base.Engine` by an engine of another process.

    Who owns what: this object the process and its end of the socket, from its making to `stop`; the process all else. It ends with
    its socket, so it cannot outlive this one, not even where this one is killed. When it ends of itself, whatever the reason, all that
    waits fails as unavailable, and the engine counts as dead.
    """

    def __init__(self, config: ServerConfig) -> None:
        """Start the process, and wait until it has loaded.

        Args:
            config: how the engine is to run, but for where.

        Raises:
            SyneraError, ValueError: those of the engine's loader.
            CloudUnavailableError: the process ended by itself.
        """
        self._usage = EngineUsage(0, 0, 0, 0, 0)
        self._watchers: list[Callable[[Iteration], None]] = []
        self._numbers = count(1)
        self._results: dict[int, asyncio.Future[Any]] = {}  # of what was asked, by its number
        self._streamed: dict[int, asyncio.Queue[Streamed | None]] = {}  # of streams; None comes when the result is there
        self._over: str | None = None  # why nothing is asked any more
        self._ending: asyncio.Future[None] | None = None
        self._death: asyncio.Future[CloudUnavailableError]
        self._channel: Channel | None = None  # from the start on; it then has the socket
        self._end, theirs = socket.socketpair()
        with theirs:
            # The same modules as this process has, wherever it was started, and not what the current folder may hold.
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
            command = [sys.executable, "-P", "-m", "cloud.engine.process.worker", str(theirs.fileno())]
            nothing = subprocess.DEVNULL
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=nothing, stdout=nothing, env=environment
            )
        try:
            self._info = self._loaded(config)
        except BaseException:
            self._reap()
            raise

    @property
    def pid(self) -> int:
        """See :class:`cloud.engine.base.Engine`."""
        return self._process.pid

    @property
    def info(self) -> EngineInfo:
        """See :class:`cloud.engine.base.Engine`."""
        return self._info

    @property
    def usage(self) -> EngineUsage:
        """See :class:`cloud.engine.base.Engine`; as it was after the last forward, or half a second ago."""
        return self._usage

    def watch(self, watcher: Callable[[Iteration], None]) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._watchers.append(watcher)

    async def start(self) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        self._death = asyncio.get_running_loop().create_future()
        self._channel = Channel(self._received, self._lost)
        await self._channel.connect(self._end)
        await self._call("start")

    async def stop(self) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._stop())
        await asyncio.shield(self._ending)

    async def failed(self) -> CloudUnavailableError:
        """See :class:`cloud.engine.base.Engine`."""
        return await asyncio.shield(self._death)

    async def open(self, session_id: str, account: str = "") -> None:
        """See :class:`cloud.engine.base.Engine`."""
        await self._call("open", session_id, account)

    async def check(self, session_id: str, check: Check) -> Checked:
        """See :class:`cloud.engine.base.Engine`."""
        checked: Checked = await self._call("check", session_id, check)
        return checked

    async def forward(self, session_id: str, chunk: Chunk) -> Ran:
        """See :class:`cloud.engine.base.Engine`."""
        ran: Ran = await self._call("forward", session_id, chunk)
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
        number, result = self._ask("stream", tuple(prompt), max_new_tokens, sampling, account, log_probabilities)
        tokens = self._streamed[number] = asyncio.Queue()
        result.add_done_callback(lambda _: tokens.put_nowait(None))
        try:
            while (each := await tokens.get()) is not None:
                yield each
            result.result()
        finally:
            del self._streamed[number]
            await self._cancelled(number, result)

    async def close(self, session_id: str) -> None:
        """See :class:`cloud.engine.base.Engine`."""
        if self._over is None:
            _, result = self._ask("close", session_id)
            result.add_done_callback(asyncio.Future.exception)  # with the engine's death it is released, too
            await asyncio.wait([result])  # which is all that is cancelled with a caller

    def _loaded(self, config: ServerConfig) -> EngineInfo:
        try:
            send_now(self._end, (config, log.configured()))
            loaded: EngineInfo | BaseException = receive_now(self._end)
        except (EOFError, OSError):
            raise CloudUnavailableError(self._gone()) from None
        if isinstance(loaded, BaseException):
            raise loaded
        return loaded

    # ------------------------------------------------------------ messages

    async def _call(self, method: str, *arguments: Any) -> Any:
        """Ask, and wait for the result; who goes away before cancels it there, and waits for that."""
        number, result = self._ask(method, *arguments)
        try:
            await asyncio.wait([result])
            return result.result()
        finally:
            await self._cancelled(number, result)

    def _ask(self, method: str, *arguments: Any) -> tuple[int, asyncio.Future[Any]]:
        if self._over is not None:
            raise CloudUnavailableError(self._over)
        assert self._channel is not None
        number, result = next(self._numbers), asyncio.get_running_loop().create_future()
        self._results[number] = result
        self._channel.send((number, method, *arguments))
        return number, result

    async def _cancelled(self, number: int, result: asyncio.Future[Any]) -> None:
        if not result.done():
            assert self._channel is not None
            self._channel.send((number, "cancel"))
            await asyncio.wait([result])
        if not result.cancelled():
            result.exception()  # it may have failed while nobody waited for it

    def _received(self, messages: list[tuple[Any, ...]]) -> None:
        for kind, *said in messages:
            if kind == "usage":
                iteration, self._usage = said
                for watcher in self._watchers if iteration is not None else ():
                    watcher(iteration)
            elif kind == "died":
                self._dies(str(said[0]))
            elif kind == "item":
                if (tokens := self._streamed.get(said[0])) is not None:
                    tokens.put_nowait(said[1])
            else:
                number, value = said
                result = self._results.pop(number, None)
                if result is None:
                    continue  # it has failed by the engine's death
                if kind == "error":
                    result.set_exception(value)
                else:
                    result.set_result(value)

    def _lost(self) -> None:
        self._dies(self._gone())

    # ------------------------------------------------------------ the end

    def _dies(self, why: str) -> None:
        self._fails(why)
        if self._ending is None and not self._death.done():
            self._death.set_result(CloudUnavailableError(why))

    def _fails(self, why: str) -> None:
        """Fail all that waits, and what is asked from now on."""
        self._over = self._over or why
        results, self._results = self._results, {}
        for result in results.values():
            result.set_exception(CloudUnavailableError(self._over))

    def _gone(self) -> str:
        """Why there is no process any more; kills it where it only closed its end."""
        try:
            code = self._process.wait(_CODE_SECONDS)
        except subprocess.TimeoutExpired:
            code = None
        self._reap()
        how = "closed its end" if code is None else f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
        return f"the engine's process ended by itself ({how}); restart the verifier, its log says more"

    async def _stop(self) -> None:
        if self._channel is not None:
            if self._over is None:
                _, result = self._ask("stop")
                result.add_done_callback(asyncio.Future.exception)
                self._over = "the verifier is shutting down; try again when it is back"
                await asyncio.wait([result])
            self._fails(self._over)
            self._channel.close()
        self._usage = EngineUsage(0, self._usage.blocks, 0, 0, self._usage.evicted)
        await asyncio.to_thread(self._reap)

    def _reap(self) -> None:
        """See to it that the process is over."""
        if self._channel is None:
            self._end.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
