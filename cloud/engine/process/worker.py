"""The process that an engine lives in: `python -m cloud.engine.process.worker FD`, started by remote.py alone.

It loads, answers what is asked over its socket, and ends when that is closed, however its parent ended. What does not live here: the
engine, which is any of the registry's.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import pickle
import signal
import socket
import sys
from contextlib import aclosing
from functools import partial
from typing import Any

from cloud import log
from cloud.engine import registry
from cloud.engine.base import Engine, EngineUsage, Iteration
from cloud.engine.process.channel import Channel, receive_now, send_now
from cloud.garbage import settle
from runtime.errors import CloudError

_METHODS = frozenset({"start", "stop", "open", "check", "forward", "close"})
"""What is asked by name; besides there are streams, and a `cancel` of either."""
_SWITCH_SECONDS = 0.0002
"""How long a thread that computes may keep Python from one that has a message to send or to read; the usual 5 ms is a check's whole
forward."""
_USAGE_SECONDS = 0.5
"""How old what is told of an idle engine may be."""


def main(end: socket.socket) -> None:
    """Load what the first message asks for, tell what it is or why it cannot be, and serve."""
    faulthandler.enable()
    sys.setswitchinterval(_SWITCH_SECONDS)
    for each in (signal.SIGINT, signal.SIGTERM):  # they come to all of a terminal or a unit; only the parent knows when to end
        signal.signal(each, signal.SIG_IGN)
    config, logged = receive_now(end)
    if logged is not None:
        log.configure(*logged)
    try:
        engine = registry.load_here(config)
    except Exception as error:  # the parent raises it again
        send_now(end, _portable(error))
        return
    settle()
    send_now(end, engine.info)
    asyncio.run(_Worker(engine).serve(end))


class _Worker:
    """Calls of the engine, by the number that the parent gave each."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._channel = Channel(self._received, self._orphaned)
        self._running: dict[int, asyncio.Task[Any]] = {}
        self._told: EngineUsage | None = None

    async def serve(self, end: socket.socket) -> None:
        """Answer until the parent is gone."""
        loop = asyncio.get_running_loop()

        def ran(iteration: Iteration) -> None:
            loop.call_soon_threadsafe(self._tell, iteration, self._engine.usage)

        self._engine.watch(ran)
        await self._channel.connect(end)
        while True:
            await asyncio.sleep(_USAGE_SECONDS)
            if (usage := self._engine.usage) != self._told:
                self._tell(None, usage)

    def _received(self, messages: list[tuple[Any, ...]]) -> None:
        for number, method, *arguments in messages:
            if method == "cancel":
                if (task := self._running.get(number)) is not None:
                    task.cancel()
                continue
            assert method == "stream" or method in _METHODS
            work = self._stream(number, *arguments) if method == "stream" else getattr(self._engine, method)(*arguments)
            self._running[number] = task = asyncio.ensure_future(work)
            task.add_done_callback(partial(self._over, number))
            if method == "start":
                task.add_done_callback(self._started)

    async def _stream(self, number: int, *arguments: Any) -> None:
        async with aclosing(self._engine.stream(*arguments)) as tokens:
            async for each in tokens:
                self._channel.send(("item", number, each))

    def _over(self, number: int, task: asyncio.Task[Any]) -> None:
        """Tell what became of a call; a cancelled one is over like any other."""
        del self._running[number]
        if task.cancelled():
            self._channel.send(("value", number, None))
        elif (error := task.exception()) is not None:
            self._channel.send(("error", number, _portable(error)))
        else:
            self._channel.send(("value", number, task.result()))

    def _started(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and task.exception() is None:
            self._watch = asyncio.ensure_future(self._died())

    async def _died(self) -> None:
        self._channel.send(("died", await self._engine.failed()))

    def _tell(self, iteration: Iteration | None, usage: EngineUsage) -> None:
        self._told = usage
        self._channel.send(("usage", iteration, usage))

    def _orphaned(self) -> None:
        """The parent is gone: nobody is left to tell anything, and a forward in hand, which may take minutes, is of no use."""
        logging.shutdown()
        os._exit(0)


def _portable(error: BaseException) -> BaseException:
    """The error as it can be raised by another process."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - of this program's own making
    except Exception:  # whatever an error of a library is made of
        return CloudError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
