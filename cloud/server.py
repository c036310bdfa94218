"""The life of a verifier process: build, bind, serve, stop gracefully.

What does not live here: what it serves (service.py and below) and its command line (scripts/serve.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import grpc
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]  # missing in the stubs
from grpc_reflection.v1alpha import reflection

from cloud.engine.base import Engine, EngineInfo
from cloud.engine.embedded.batcher import Batcher, Pace
from cloud.engine.embedded.engine import TorchEngine
from cloud.security import server_credentials
from cloud.service import SyneraServicer
from cloud.sessions import SessionTable
from cloud.verify import Verification
from runtime.errors import SyneraError
from runtime.model.placement import DTYPES, Placement
from runtime.model.tokenizer import tokenizer_hash
from runtime.wire import synera_pb2, synera_pb2_grpc
from runtime.wire.address import check_plaintext

SERVICE = synera_pb2.DESCRIPTOR.services_by_name["Synera"].full_name


class ServerStartError(SyneraError):
    """The server cannot listen as configured: address in use, unreadable certificates."""


@dataclass(frozen=True)
class ServerConfig:
    """How a verifier runs."""

    model: Path
    """Hugging Face folder of the LLM, with its tokenizer."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""
    dtype: str = "float32"
    """Arithmetic type; float32 makes results independent of the batch."""
    threads: int | None = None
    """CPU threads of a forward; None leaves it to torch."""
    max_sessions: int = 64
    lease_seconds: float = 300.0
    """An idle session is kept this long."""
    token_budget: int = 512
    """Most tokens in a batch of several requests."""
    max_draft_tokens: int = 16
    """Longest draft of one check."""
    tls_certificate: Path | None = None
    """PEM; None with `tls_key` None is plaintext."""
    tls_key: Path | None = None
    allow_plaintext: bool = False
    """Accept plaintext on an address that is not loopback."""
    grace_seconds: float = 5.0
    """How long requests in flight may still take when stopping."""
    pace: Pace | None = None
    """Emulate the durations of another machine."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port={self.port} is outside 0..65535")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r} is not one of {', '.join(DTYPES)}")
        for name in ("max_sessions", "token_budget", "max_draft_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads} must be at least 1")
        if not self.lease_seconds > 0 or self.grace_seconds < 0:
            raise ValueError(
                f"lease_seconds={self.lease_seconds} must be above 0 and grace_seconds={self.grace_seconds} at least 0"
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("TLS needs both a certificate and its key")

    def address(self, port: int) -> str:
        """`host:port`, with brackets around an IPv6 host."""
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"


class CloudServer:
    """One verifier on the running event loop, from `start` to `stop`."""

    def __init__(
        self, config: ServerConfig, *, engine: Engine | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Load the model.

        Args:
            config: how to run.
            engine: runs the LLM; None loads `config.model` into the embedded one.
            now: monotonic seconds, for leases.

        Raises:
            PlaintextRefusedError: plaintext on an address that is not loopback.
            CheckpointError: no usable model or tokenizer in `config.model`.
        """
        way_out = "give a TLS certificate and key, or allow plaintext if the network is trusted"
        encrypted = config.tls_certificate is not None
        check_plaintext(config.host, encrypted=encrypted, allow_plaintext=config.allow_plaintext, way_out=way_out)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self._config = config
        self._engine = engine or TorchEngine.load(config.model, Placement(dtype=config.dtype))
        self._tokenizer_hash = tokenizer_hash(config.model)
        self._batcher = Batcher(self._engine, token_budget=config.token_budget, pace=config.pace)
        self.table = SessionTable(
            self._engine.new_cache, max_sessions=config.max_sessions, lease_seconds=config.lease_seconds, now=now
        )
        self._health = health_aio.HealthServicer()
        self._server: grpc.aio.Server | None = None

    @property
    def info(self) -> EngineInfo:
        """What is served."""
        return self._engine.info

    async def start(self) -> int:
        """Bind and serve; return the port.

        Raises:
            ServerStartError: the address is taken or the certificates are unusable.
        """
        # Without this a second server on a taken port would quietly share it.
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
        limit = self._config.max_draft_tokens
        verification = Verification(self.info, self._tokenizer_hash, self.table, self._batcher, max_draft_tokens=limit)
        paced = self._config.pace is not None
        servicer = SyneraServicer(verification, lease_seconds=self._config.lease_seconds, paced=paced)
        synera_pb2_grpc.add_SyneraServicer_to_server(servicer, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((SERVICE, "grpc.health.v1.Health", reflection.SERVICE_NAME), server)
        port = self._bind(server)
        self._batcher.start()
        await server.start()
        self._server = server
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        return port

    async def stop(self) -> None:
        """Report NOT_SERVING, let requests in flight end within the grace period, then end everything."""
        await self._health.enter_graceful_shutdown()
        if self._server is not None:
            await self._server.stop(self._config.grace_seconds)
        await asyncio.to_thread(self._batcher.stop)

    def _bind(self, server: grpc.aio.Server) -> int:
        c = self._config
        address = c.address(c.port)
        try:
            if c.tls_certificate is not None and c.tls_key is not None:
                return server.add_secure_port(address, server_credentials(c.tls_certificate, c.tls_key))
            return server.add_insecure_port(address)
        except OSError as error:
            raise ServerStartError(f"cannot read the TLS files: {error}") from None
        except RuntimeError as error:
            raise ServerStartError(
                f"cannot listen on {address}: is the port taken, or are the TLS files damaged? ({error})"
            ) from None


def serve(config: ServerConfig, announce: Callable[[int, EngineInfo], None]) -> None:
    """Serve until SIGTERM or SIGINT, then stop gracefully.

    Args:
        config: how to run.
        announce: called with the port and what is served once requests are accepted.

    Raises:
        SyneraError: it could not start.
    """

    async def live() -> None:
        asked = asyncio.Event()
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, asked.set)
        server = CloudServer(config)
        announce(await server.start(), server.info)
        await asked.wait()
        await server.stop()

    asyncio.run(live())


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
