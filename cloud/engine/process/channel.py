"""Objects between the two processes of one verifier, over a pair of sockets that nobody else has.

Pickled, as both ends are this program, started by one user from one place; nothing that a peer sends is ever unpickled. What does not
live here: what the objects mean (remote.py, worker.py).
"""

from __future__ import annotations

import asyncio
import pickle
import socket
from collections.abc import Callable
from typing import Any, cast

_LENGTH_BYTES = 8


def send_now(end: socket.socket, message: object) -> None:
    """Send one object; blocks. For before the event loop has the socket.

    Raises:
        OSError: the other process has gone.
    """
    end.sendall(_frame(message))


def receive_now(end: socket.socket) -> Any:
    """Wait for one object; blocks.

    Raises:
        EOFError: the other process has gone.
    """
    return pickle.loads(_exactly(end, int.from_bytes(_exactly(end, _LENGTH_BYTES), "little")))  # noqa: S301 - of this program's own making


class Channel(asyncio.Protocol):
    """Sends and receives on an event loop, from `connect` to `close`. What is sent within one turn of the loop goes as one."""

    def __init__(self, received: Callable[[list[Any]], None], lost: Callable[[], None]) -> None:
        """Prepare.

        Args:
            received: told what has come, in order.
            lost: told that the other process has gone, unless this end was closed before.
        """
        self._received, self._lost = received, lost
        self._read, self._unsent = bytearray(), list[object]()
        self._transport: asyncio.Transport | None = None
        self._closed = False

    async def connect(self, end: socket.socket) -> None:
        """Take a socket, which is this object's from now on."""
        self._loop = asyncio.get_running_loop()
        await self._loop.create_unix_connection(lambda: self, sock=end)

    def send(self, message: object) -> None:
        """Send an object; nothing happens where the other process has gone, of which `lost` tells."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(message)

    def close(self) -> None:
        """Send what is unsent, and close this end."""
        self._flush()
        self._closed = True
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See :class:`asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See :class:`asyncio.Protocol`."""
        self._read += data
        while len(self._read) >= _LENGTH_BYTES:
            end = _LENGTH_BYTES + int.from_bytes(self._read[:_LENGTH_BYTES], "little")
            if len(self._read) < end:
                break
            messages = pickle.loads(memoryview(self._read)[_LENGTH_BYTES:end].tobytes())  # noqa: S301 - of this program's own making
            del self._read[:end]
            self._received(messages)

    def connection_lost(self, error: Exception | None) -> None:
        """See :class:`asyncio.Protocol`."""
        if not self._closed:
            self._closed = True
            self._lost()

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, []
        if unsent and self._transport is not None and not self._closed:
            self._transport.write(_frame(unsent))


def _frame(message: object) -> bytes:
    pickled = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return len(pickled).to_bytes(_LENGTH_BYTES, "little") + pickled


def _exactly(end: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        if not (data := end.recv(size - len(found))):
            raise EOFError("the other process has gone")
        found += data
    return bytes(found)
