"""A verifier as a process: its signals, its drain, how it ends and what its exit code says.

What does not live here: the life of the server itself (server.py) and the command line (scripts/serve.py).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from enum import IntEnum

from cloud.config import ServerConfig
from cloud.connections import raise_open_files
from cloud.engine.base import EngineInfo
from cloud.garbage import settle
from cloud.log import fields
from cloud.server import CloudServer

_log = logging.getLogger(__name__)


class Ending(IntEnum):
    """How a verifier's life ended; the value is the exit code."""

    ASKED = 0
    """By SIGTERM or SIGINT, gracefully."""
    ENGINE_DIED = 1
    """Of itself, gracefully as far as could be; whoever supervises it should start it again."""


def serve(config: ServerConfig, announce: Callable[[int, EngineInfo], None]) -> Ending:
    """Serve until SIGTERM or SIGINT, then drain and stop gracefully; or until the engine dies, then stop.

    A second signal ends the process at once, whatever it is doing, with exit code 128 + the signal's number. The last line of
    the log is `stopped`, and why; or `stopped at once`.

    Args:
        config: how to run.
        announce: called with the port and what is served once requests are accepted.

    Raises:
        SyneraError: it could not start.
        ValueError: the engine cannot run as configured.
    """

    async def live() -> Ending:
        asked = asyncio.Event()

        def ask(number: signal.Signals) -> None:
            if asked.is_set():
                _stop_at_once(number)
            asked.set()

        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, ask, each)
        raise_open_files()
        server = CloudServer(config)
        port = await server.start()
        settle()
        announce(port, server.info)
        dead = await _either(asked, server)
        if not dead:
            await server.drain()
        await server.stop("the engine died" if dead else "asked to")
        return Ending.ENGINE_DIED if dead else Ending.ASKED

    return asyncio.run(live())


async def _either(asked: asyncio.Event, server: CloudServer) -> bool:
    """Wait until a stop is asked for or the engine has died; return whether it has."""
    waits = [asyncio.ensure_future(asked.wait()), asyncio.ensure_future(server.died())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for each in waits:
        each.cancel()
    return not asked.is_set()


def _stop_at_once(number: signal.Signals) -> None:
    """Leave everything to the system: a forward in hand, which may take minutes, could not be ended otherwise."""
    _log.warning("stopped at once", extra=fields(signal=number.name))
    logging.shutdown()
    os._exit(128 + number)
