from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest
from prometheus_client import CollectorRegistry, Gauge

from cloud.exporter import SERVING, Exporter
from tests.support.raw import poll
from tests.support.scripted import fetch


@contextmanager
def exported(state: Callable[[], str] = lambda: SERVING) -> Iterator[Exporter]:
    registry = CollectorRegistry()
    Gauge("planted", "A figure.", registry=registry).set(3)
    exporter = Exporter(registry, "127.0.0.1", 0, state)
    exporter.start()
    try:
        yield exporter
    finally:
        exporter.close()


def test_it_tells_the_figures_and_the_state() -> None:
    said = [SERVING]
    with exported(lambda: said[0]) as exporter:
        status, text = fetch(exporter.port, "/metrics")
        assert (status, "planted 3.0" in text) == (200, True)
        assert fetch(exporter.port, "/healthz") == (200, "serving\n")
        said[0] = "draining"
        assert fetch(exporter.port, "/healthz") == (503, "draining\n")
        assert fetch(exporter.port, "/metrics")[0] == 200


@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/metrics/", "/debug", "/../etc/passwd"])
def test_there_is_nothing_else(path: str) -> None:
    with exported() as exporter:
        assert fetch(exporter.port, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_only_get_is_answered(method: str) -> None:
    with exported() as exporter:
        assert [fetch(exporter.port, path, method)[0] for path in ("/metrics", "/healthz")] == [405, 405]


def test_silent_peers_neither_hold_it_up_nor_keep_its_threads() -> None:
    before = threading.active_count()
    with exported() as exporter, ExitStack() as stack:
        silent = [stack.enter_context(socket.create_connection(("127.0.0.1", exporter.port))) for _ in range(5)]
        assert fetch(exporter.port, "/healthz")[0] == 200
        assert threading.active_count() > before
        exporter.close()
        assert threading.active_count() == before
        assert [each.recv(1) for each in silent] == [b""] * 5


def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    with exported() as exporter, ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", exporter.port))) for _ in range(16)]
        with closing(socket.create_connection(("127.0.0.1", exporter.port))) as more:
            more.settimeout(30)
            assert more.recv(1) == b""
        for each in held:
            each.close()

        def answers() -> bool:
            try:
                return fetch(exporter.port, "/healthz")[0] == 200
            except OSError:  # a thread has not seen yet that its peer is gone
                return False

        poll(answers)


def test_a_taken_port_is_an_error_and_a_free_one_is_free_again() -> None:
    with exported() as exporter:
        port = exporter.port
        with pytest.raises(OSError, match="in use"):
            Exporter(CollectorRegistry(), "127.0.0.1", port, lambda: SERVING)
    never_started = Exporter(CollectorRegistry(), "127.0.0.1", port, lambda: SERVING)
    never_started.close()
    Exporter(CollectorRegistry(), "127.0.0.1", port, lambda: SERVING).close()
