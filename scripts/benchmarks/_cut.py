"""A TCP address in front of a verifier whose connections can be cut or silenced, as a network's can."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator

_RESET = struct.pack("ii", 1, 0)


class Cable:
    """Carries bytes both ways between who connects to `target` and a port of this machine."""

    def __init__(self, listening: socket.socket, port: int) -> None:
        self.target = f"127.0.0.1:{listening.getsockname()[1]}"
        self._listening, self._port = listening, port
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._carries = threading.Event()
        self._carries.set()
        self._threads: list[threading.Thread] = []

    def cut(self) -> None:
        """Reset all connections."""
        with self._lock:
            ended, self._open = self._open, set()
        for each in ended:
            with contextlib.suppress(OSError):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                each.shutdown(socket.SHUT_RD)

    def silence(self, silent: bool) -> None:
        """Carry nothing, and say nothing of it; or go on with what was held up."""
        (self._carries.clear if silent else self._carries.set)()

    def serve(self) -> None:
        """Accept until the listening socket is shut down."""
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listening.accept()
                self._start(here)

    def end(self) -> None:
        """Cut, and join all threads; the listening socket is shut down already."""
        self.silence(False)
        self.cut()
        for each in self._threads:
            each.join()

    def _start(self, here: socket.socket) -> None:
        thread = threading.Thread(target=self._carry, args=(here,), name="cable", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _carry(self, here: socket.socket) -> None:
        with contextlib.closing(here), contextlib.suppress(OSError):
            self._carries.wait()  # who connects in a silence hears nothing before its end
            with socket.create_connection(("127.0.0.1", self._port)) as there:
                with self._lock:
                    self._open |= {here, there}
                back = threading.Thread(target=self._pump, args=(there, here), name="cable", daemon=True)
                back.start()
                self._pump(here, there)
                back.join()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._carries.wait()
                sink.sendall(data)
        with self._lock:
            self._open -= {source}
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RD)  # the other direction ends, too


@contextlib.contextmanager
def cable(port: int, kind: type[Cable] = Cable) -> Iterator[Cable]:
    """Put a cable in front of a port, which need not listen yet."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = kind(listening, port)
        accepting = threading.Thread(target=made.serve, name="cable", daemon=True)
        accepting.start()
        try:
            yield made
        finally:
            with contextlib.suppress(OSError):
                listening.shutdown(socket.SHUT_RDWR)
            accepting.join()
            made.end()
