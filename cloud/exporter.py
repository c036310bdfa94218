"""The metrics over HTTP: GET /metrics and GET /healthz, on a port and threads of its own, from `start` to `close`.

What does not live here: the figures (metrics.py) and what health is (server.py).
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

SERVING = "serving"
"""What the state of a healthy verifier is called; any other is answered with 503."""
_MOST_CONNECTIONS = 16
_READ_SECONDS = 5.0
"""How long a peer may be silent in the middle of its request."""
_POLL_SECONDS = 0.1
"""How long `close` may have to wait for the thread that accepts."""


class Exporter:
    """Listens from its making on, answers from `start` on; `close` leaves no thread and no socket."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int, state: Callable[[], str]) -> None:
        """Bind.

        Args:
            registry: what /metrics tells.
            host: name or address of this machine.
            port: 0 takes a free one.
            state: what /healthz tells, one word or a few; called by any thread.

        Raises:
            OSError: the address is taken, or not of this machine.
        """
        self._metrics, self._state = make_wsgi_app(registry), state
        self._server = (_Server6 if ":" in host else _Server)((host, port), _Handler)
        self._server.set_app(self._answer)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(_POLL_SECONDS,), name="metrics", daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.server_port

    def start(self) -> None:
        """Answer from now on."""
        self._thread.start()

    def close(self) -> None:
        """Stop listening, end what is being answered, and wait for the threads; blocks for a moment."""
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.end_connections()
        self._server.server_close()

    def _answer(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environment["PATH_INFO"]
        if path not in ("/metrics", "/healthz"):
            return _text(start, "404 Not Found", "there are /metrics and /healthz")
        if environment["REQUEST_METHOD"] != "GET":
            return _text(start, "405 Method Not Allowed", "only GET", ("Allow", "GET"))
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environment, start)
            return answer
        state = self._state()
        return _text(start, "200 OK" if state == SERVING else "503 Service Unavailable", state)


def _text(start: Callable[..., Any], status: str, said: str, *headers: tuple[str, str]) -> list[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8"), *headers])
    return [f"{said}\n".encode()]


class _Handler(WSGIRequestHandler):
    timeout = _READ_SECONDS

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log no request: a scrape is no event."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread a connection, of which there are at most `_MOST_CONNECTIONS`; more are closed at once."""

    daemon_threads = False  # so that server_close waits for them
    address_family = socket.AF_INET

    def __init__(self, *arguments: Any) -> None:
        self._connections: set[Any] = set()
        super().__init__(*arguments)

    def server_bind(self) -> None:
        """Bind without asking for the machine's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Take a connection while there are not too many."""
        return len(self._connections) < _MOST_CONNECTIONS

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer on a thread of its own."""
        self._connections.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        """Forget a connection."""
        self._connections.discard(request)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a peer that went away; what else may be raised, WSGI has answered with 500."""

    def end_connections(self) -> None:
        """Let whoever reads from or writes to a peer fail now."""
        for each in tuple(self._connections):
            with contextlib.suppress(OSError):  # it has ended by itself
                each.shutdown(socket.SHUT_RDWR)


class _Server6(_Server):
    address_family = socket.AF_INET6
