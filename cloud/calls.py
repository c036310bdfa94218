"""Every call of the service, numbered for the log and counted for the metrics, whatever becomes of it.

What does not live here: how an error becomes a status (service.py) and the figures themselves (metrics.py).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import grpc

from cloud.handlers import surrounded
from cloud.log import bind
from cloud.metrics import BUG, METHODS, Metrics
from cloud.service import SERVICE
from runtime.wire import ERROR_KIND_KEY


class Calls(grpc.aio.ServerInterceptor):
    """Stands around everything else that handles a call of the service; the first of the interceptors.

    What is logged while a call is handled, also by the work that it starts, carries its number (`request`, from 1 in a
    process's life) and where it comes from (`peer`).
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics, self._numbers = metrics, itertools.count(1)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """See :class:`grpc.aio.ServerInterceptor`."""
        handler: Any = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").rpartition("/")
        if handler is None or service != SERVICE or method not in METHODS:  # a name that a peer has made up is no label
            return handler
        return surrounded(handler, lambda context: _Call(self._metrics, method, context, next(self._numbers)))


class _Call:
    """A call in flight."""

    def __init__(self, metrics: Metrics, method: str, context: grpc.aio.ServicerContext, number: int) -> None:
        self._metrics, self._method, self._context = metrics, method, context
        self._began = time.monotonic()
        metrics.in_flight[method].inc()
        bind(request=number, peer=context.peer())  # the task is this call's alone, so nobody need undo it

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._ended("OK")
        else:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        """Count an end that is no answer: refused, left by its peer, or a bug."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit | grpc.aio.InternalError):  # the last: it cannot be sent
            self._ended("CANCELLED")
        elif isinstance(error, grpc.aio.AbortError):
            told = dict(self._context.trailing_metadata() or ())
            self._ended(self._context.code().name, told.get(ERROR_KIND_KEY, BUG))
        else:
            self._ended("UNKNOWN", BUG)

    def _ended(self, code: str, reason: str | None = None) -> None:
        """Count the end."""
        self._metrics.in_flight[self._method].dec()
        self._metrics.answered(self._method, code, time.monotonic() - self._began, reason)
