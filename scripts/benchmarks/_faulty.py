"""A verifier process that can be killed, stopped and started again, and a TCP address in front of it that can be cut or silenced."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from runtime.errors import CloudUnavailableError

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


class Cloud:
    """A verifier process on a port of its own, which it keeps over its lives."""

    def __init__(self, model: Path, threads: int, max_sessions: int, more: Sequence[str] = ()) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        options = ("--threads", str(threads), "--max-sessions", str(max_sessions), "--log-level", "error")
        self._command = [
            sys.executable,
            "-P",
            "-m",
            "scripts.serve",
            "--model",
            str(model),
            "--port",
            str(self.port),
            *options,
            *more,
        ]
        self._environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self._environment
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline().startswith(b"listening on "):
            raise CloudUnavailableError(f"the verifier of {self._command[5]} does not start")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Have it end by a signal, and wait for that; nothing happens where it has."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            self._process.communicate()


@contextlib.contextmanager
def verifier(model: Path, threads: int, max_sessions: int, more: Sequence[str] = ()) -> Iterator[Cloud]:
    """Run one, with more options of `synera serve` if any, and have it gone in the end, whatever became of it."""
    cloud = Cloud(model, threads, max_sessions, more)
    cloud.start()
    try:
        yield cloud
    finally:
        cloud.send(signal.SIGCONT)
        cloud.end()
