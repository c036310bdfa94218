"""The life of a verifier: build, bind, serve, drain, stop gracefully.

What does not live here: its settings (config.py), what it serves (service.py and below), the process and its signals (process.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cloud.admission import Admission
from cloud.authentication import Authentication
from cloud.calls import Calls
from cloud.config import ServerConfig, endpoint
from cloud.engine.base import Engine, EngineInfo
from cloud.engine.registry import load_engine
from cloud.exporter import SERVING, Exporter
from cloud.forward import Forwarding
from cloud.generate import Generation
from cloud.health import Health
from cloud.log import fields
from cloud.measured import MeasuredEngine
from cloud.metrics import Metrics
from cloud.monitor import Monitor, of_pace
from cloud.openings import Openings
from cloud.renewal import Renewed
from cloud.security import server_credentials
from cloud.service import SERVICE, Statuses, SyneraServicer
from cloud.sessions import SessionTable
from cloud.sketch import Sketching
from cloud.tokens import Tokens, load_tokens
from cloud.verify import Verification
from runtime.errors import SyneraError
from runtime.model.tokenizer import tokenizer_hash
from runtime.wire import synera_pb2_grpc
from runtime.wire.address import check_plaintext, is_loopback
from runtime.wire.sizes import longest_forward_bytes, longest_request_bytes

_HEALTH_SECONDS = 5.0  # that the event loop may take to say how it is
_POLL_SECONDS = 0.05  # of a drain, between looks at what is left
_log = logging.getLogger(__name__)


class ServerStartError(SyneraError):
    """The server cannot listen as configured: address in use, or not of this machine."""


class CloudServer:
    """One verifier on the running event loop, from `start` to `stop`."""

    def __init__(
        self, config: ServerConfig, *, engine: Engine | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Load the model.

        Args:
            config: how to run.
            engine: runs the LLM; None loads the one that the config names.
            now: monotonic seconds, for leases and limits.

        Raises:
            PlaintextRefusedError: plaintext on an address that is not loopback.
            ServerStartError: the address is taken, or not of this machine.
            SettingError: the TLS files or the tokens are unusable.
            CheckpointError: no usable model or tokenizer in `config.model`.
            ValueError: the engine cannot run as configured.
        """
        way_out = "give a TLS certificate and key, or allow plaintext if the network is trusted"
        encrypted = config.tls_certificate is not None
        check_plaintext(config.host, encrypted=encrypted, allow_plaintext=config.allow_plaintext, way_out=way_out)
        _check_free(config.host, config.port)
        if config.metrics_port is not None:
            _check_free(config.metrics_host, config.metrics_port)
        self._config = config
        self._credentials = (
            server_credentials(config.tls_certificate, config.tls_key, config.tls_ca)
            if config.tls_certificate and config.tls_key
            else None
        )
        self._authentication = Authentication(_tokens(config.tokens), certificates=config.tls_ca is not None)
        loaded = engine or load_engine(config)
        self.metrics = Metrics(loaded, max_draft_tokens=config.max_draft_tokens, max_sessions=config.max_sessions)
        self._engine = MeasuredEngine(loaded, self.metrics)
        self._monitor = Monitor()
        if loaded.info.middle is not None:  # only its devices ask for it
            self._monitor = Monitor(of_pace(config.pace))
            loaded.watch(self._monitor.iterated)
        self._tokenizer_hash = tokenizer_hash(config.model)
        self._admission = Admission(config.limits, context_tokens=self.info.context_tokens, now=now)
        self._table = SessionTable(
            self._engine.close,
            max_sessions=config.max_sessions,
            lease_seconds=config.lease_seconds,
            unused_seconds=config.limits.unused_seconds,
            account_sessions=config.limits.account_sessions,
            now=now,
        )
        self._generation = Generation(self._engine, self._admission)
        self._sketching = None if config.sketch is None else Sketching.of(self._generation, config.model, config.sketch)
        self._forwarding = Forwarding(self._engine, self._table, self._admission, self._monitor)
        self.metrics.answer_bytes.set_function(lambda: self._forwarding.room.bytes)
        self._health = Health(SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        self._state = "starting"
        self._died = asyncio.Event()
        self._server: grpc.aio.Server | None = None
        self._exporter: Exporter | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def info(self) -> EngineInfo:
        """What is served."""
        return self._engine.info

    async def start(self) -> int:
        """Bind and serve; return the port.

        Raises:
            ServerStartError: the address is taken, or not of this machine.
        """
        c = self._config
        interceptors = (Calls(self.metrics), self._authentication, Statuses())
        server = grpc.aio.server(interceptors=interceptors, options=c.connections.options(self._longest_message_bytes))
        servicer = SyneraServicer(
            Openings(self._engine, self._table, self._tokenizer_hash),
            Verification(self._engine, self._table, self._admission, max_draft_tokens=c.max_draft_tokens),
            self._generation,
            self._forwarding,
            self._sketching,
            lease_seconds=c.lease_seconds,
            reader_seconds=c.limits.reader_seconds,
            paced=c.pace is not None,
        )
        synera_pb2_grpc.add_SyneraServicer_to_server(servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if c.reflection or is_loopback(c.host):
            reflection.enable_server_reflection((SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME), server)
        port = self._bind(server)
        self._exporter = self._listen_for_scrapes()
        await self._engine.start()
        await server.start()
        self._server = server
        self._tell(SERVING)
        self._tasks = [_background("watch", self._watch_engine()), _background("sweep", self._sweep())]
        metrics = None
        if self._exporter is not None:
            self._exporter.start()
            metrics = endpoint(c.metrics_host, self._exporter.port)
        served = {
            "address": c.address(port),
            "model": self.info.model,
            "engine": self.info.engine,
            "placement": self.info.placement,
        }
        known = {
            "tls": self._credentials is not None,
            "client_certificates": c.tls_ca is not None,
            "tokens": c.tokens is not None,
        }
        _log.info("started", extra=fields(**served, **known, max_sessions=c.max_sessions, metrics=metrics))
        return port

    async def died(self) -> None:
        """Wait until the engine has died of itself and health says so; does not return in a healthy life."""
        await self._died.wait()

    async def drain(self) -> None:
        """Report NOT_SERVING and admit no session or stream; return when those that are there have ended, or time is over."""
        self._engine.admit_no_more("the verifier is draining, to stop then; open a session at another, or here when it is back")
        self._tell("draining")
        seconds = self._config.drain_seconds
        _log.info("draining", extra=fields(sessions=self._engine.held, seconds=seconds))
        until = asyncio.get_running_loop().time() + seconds
        while self._engine.held and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(_POLL_SECONDS)

    async def stop(self, why: str = "asked to") -> None:
        """Report NOT_SERVING, let requests in flight end within the grace period, then end everything.

        Afterwards nothing is left: no session, no cache, no task, no thread.

        Args:
            why: it stops, for the log.
        """
        for task in self._tasks:
            task.cancel()
        self._tell("stopping")
        if self._server is not None:
            await self._server.stop(self._config.grace_seconds)
        ended = await self._table.end()
        await self._engine.stop()
        if self._exporter is not None:
            await asyncio.to_thread(self._exporter.close)
        _log.info("stopped", extra=fields(sessions_ended=ended, why=why))

    @property
    def _longest_message_bytes(self) -> int:
        """Of a request."""
        middle = self.info.middle
        if middle is not None:
            return longest_forward_bytes(middle.max_rows, middle.hidden)
        return longest_request_bytes(self.info.context_tokens, self._config.max_draft_tokens)

    async def _watch_engine(self) -> None:
        """Report NOT_SERVING once the engine has died; requests fail by themselves."""
        why = await self._engine.failed()
        _log.error("engine died", extra=fields(reason=why))
        self._tell("engine died")
        self._died.set()

    async def _sweep(self) -> None:
        """End idle sessions when their lease is over, also when nobody asks for anything any more."""
        while True:
            await asyncio.sleep(self._config.sweep_seconds)
            if ended := self._table.sweep():
                _log.info("leases expired", extra=fields(sessions=ended))

    def _tell(self, state: str) -> None:
        self._state = state
        self._health.tell(state == SERVING)
        self.metrics.serving.set(state == SERVING)

    def _listen_for_scrapes(self) -> Exporter | None:
        c, loop = self._config, asyncio.get_running_loop()
        if c.metrics_port is None:
            return None

        async def state() -> str:
            return self._state

        def ask() -> str:
            """Have the event loop itself answer: one that hangs is not healthy."""
            try:
                return asyncio.run_coroutine_threadsafe(state(), loop).result(_HEALTH_SECONDS)
            except TimeoutError:
                return "not answering"

        try:
            return Exporter(self.metrics.registry, c.metrics_host, c.metrics_port, ask)
        except OSError as error:
            raise ServerStartError(f"cannot listen on {endpoint(c.metrics_host, c.metrics_port)}: {error.strerror}") from None

    def _bind(self, server: grpc.aio.Server) -> int:
        address = self._config.address(self._config.port)
        try:
            if self._credentials is not None:
                return server.add_secure_port(address, self._credentials)
            return server.add_insecure_port(address)
        except RuntimeError as error:
            raise ServerStartError(f"cannot listen on {address}: {error}") from None


def _tokens(path: Path | None) -> Renewed[Tokens] | None:
    return None if path is None else Renewed("tokens", [path], lambda: load_tokens(path))


def _check_free(host: str, port: int) -> None:
    """Find out before the model is loaded whether the address can be had; gRPC would tell no reason, and print lines of its own."""
    reasons: list[str | None] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        found, reasons = [], [error.strerror if isinstance(error, OSError) else "no name of a machine"]
    for family, kind, protocol, _, place in found:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does
                probe.bind(place)
                return
            except OSError as error:
                reasons.append(error.strerror)
    why = ", ".join(sorted({str(each) for each in reasons}))
    raise ServerStartError(f"cannot listen on {endpoint(host, port)}: {why}; choose another port or host")


def _background(name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run a part of the server's life; that it fails is logged when it happens, as nobody awaits it."""

    def report(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("background task failed", exc_info=error, extra=fields(task=name))

    task = asyncio.create_task(work)
    task.add_done_callback(report)
    return task


@contextlib.contextmanager
def running_server(
    config: ServerConfig, *, engine: Engine | None = None, now: Callable[[], float] = time.monotonic
) -> Iterator[int]:
    """Run a verifier on a thread of its own; for tests and benches.

    Args:
        config: how to run.
        engine: as in :class:`CloudServer`.
        now: as in :class:`CloudServer`.

    Yields:
        The port. On exit the server is stopped gracefully and its threads are joined.

    Raises:
        SyneraError: it could not start.
        ValueError: the engine cannot run as configured.
    """
    started: Future[tuple[int, asyncio.AbstractEventLoop]] = Future()
    asked = asyncio.Event()

    async def live() -> None:
        try:
            server = CloudServer(config, engine=engine, now=now)
            started.set_result((await server.start(), asyncio.get_running_loop()))
        except BaseException as error:  # raised again by the thread that waits
            started.set_exception(error)
            return
        await asked.wait()
        await server.stop()

    thread = threading.Thread(target=lambda: asyncio.run(live()), name="cloud server")
    thread.start()
    try:
        port, loop = started.result()
        try:
            yield port
        finally:
            loop.call_soon_threadsafe(asked.set)
    finally:
        thread.join()
