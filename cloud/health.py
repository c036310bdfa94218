"""The health service of gRPC, for one verifier: every service of it is as healthy as the whole.

What does not live here: when it is healthy (server.py). The library's own servicer forgets whoever else watches when one
watcher leaves, so that a load balancer might never learn of a drain.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


class Health(health_pb2_grpc.HealthServicer):
    """Implements grpc.health.v1.Health; not serving until told otherwise. Used on one event loop."""

    def __init__(self, *services: str) -> None:
        """Know these services, and the server as a whole, whose name is empty."""
        self._services = frozenset(("", *services))
        self._serving = False
        self._changed = asyncio.Event()

    def tell(self, serving: bool) -> None:
        """Say from now on, and to all who watch, whether it serves."""
        self._serving = serving
        self._changed.set()
        self._changed = asyncio.Event()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Say how it is; NOT_FOUND for an unknown service."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return self._answer(request.service)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Say how it is now, and whenever that has changed."""
        said = None
        while True:
            changed, answer = self._changed, self._answer(request.service)
            if answer != said:
                said = answer
                yield answer
            else:
                await changed.wait()

    def _answer(self, service: str) -> health_pb2.HealthCheckResponse:
        status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        if service in self._services:
            status = (health_pb2.HealthCheckResponse.NOT_SERVING, health_pb2.HealthCheckResponse.SERVING)[self._serving]
        return health_pb2.HealthCheckResponse(status=status)
