"""A TCP port behind which a verifier stands, or something else; it can be cut."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any

Served = Callable[[socket.socket], None]
"""What is done with a connection; it is closed afterwards."""


def reset(connection: socket.socket) -> None:
    """Let the close of a connection be a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def says(answer: bytes, *, stays: bool = False) -> Served:
    """Say the same to whatever is heard first; then end, or listen until the other side ends."""

    def serve(connection: socket.socket) -> None:
        heard = connection.recv(65536)
        connection.sendall(answer)
        while stays and heard:
            heard = connection.recv(65536)

    return serve


class Gate:
    """A TCP port whose connections go to `behind` or to `instead`, and can be cut."""

    def __init__(self, listening: socket.socket, behind: str) -> None:
        self.target = f"127.0.0.1:{listening.getsockname()[1]}"
        self.instead: Served | None = None
        self._listening, self._behind = listening, behind
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def cut(self, *, hard: bool = False) -> None:
        """End all connections; a hard end is a reset."""
        with self._lock:
            ended, self._open = self._open, []
        for each in ended:
            with suppress(OSError):  # it has ended by itself
                if hard:
                    reset(each)
                each.shutdown(socket.SHUT_RD)  # who reads from it ends, and closes it

    def end(self) -> None:
        """Stop listening, cut, and join the threads."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.cut()
        for each in self._threads:
            each.join()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, name="gate", daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._keep(connection)
                self._start(self._serve, connection)

    def _keep(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.append(connection)

    def _serve(self, connection: socket.socket) -> None:
        with closing(connection), suppress(OSError):
            if self.instead is not None:
                self.instead(connection)
                return
            host, port = self._behind.split(":")
            with socket.create_connection((host, int(port))) as onward:
                self._keep(onward)
                back = threading.Thread(target=_pump, args=(onward, connection), name="gate", daemon=True)
                back.start()
                _pump(connection, onward)
                back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RD)  # the other direction ends, too


@contextmanager
def gate(behind: str = "", instead: Served | None = None) -> Iterator[Gate]:
    """Listen on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = Gate(listening, behind)
        made.instead = instead
        try:
            yield made
        finally:
            made.end()
