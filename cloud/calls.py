"""Every call of the service, numbered for the log and counted for the metrics, whatever becomes of it.

What does not live here: how an error becomes a status (service.py) and the figures themselves (metrics.py).
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc

from cloud.log import bind
from cloud.metrics import BUG, METHODS, Metrics
from cloud.service import SERVICE
from runtime.wire import ERROR_KIND_KEY

_KINDS: dict[tuple[bool, bool], tuple[str, Callable[..., Any]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
"""Whether requests and answers are streamed, to the handler's attribute and what makes one: others may have replaced it by
another kind, such as one that refuses without reading."""


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
        attribute, make = _KINDS[handler.request_streaming, handler.response_streaming]
        inner = getattr(handler, attribute)
        around = self._yielding if inspect.isasyncgenfunction(inner) else self._awaited
        made: grpc.RpcMethodHandler = make(around(inner, method), handler.request_deserializer, handler.response_serializer)
        return made

    def _awaited(self, inner: Any, method: str) -> Callable[..., Awaitable[Any]]:
        async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
            call = _Call(self._metrics, method, context, next(self._numbers))
            try:
                answer = await inner(request, context)
            except BaseException as error:
                call.failed(error)
                raise
            call.ended("OK")
            return answer

        return answer

    def _yielding(self, inner: Any, method: str) -> Callable[..., AsyncIterator[Any]]:
        async def answer(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            call = _Call(self._metrics, method, context, next(self._numbers))
            try:
                async with aclosing(inner(request, context)) as answers:
                    async for each in answers:
                        yield each
            except BaseException as error:
                call.failed(error)
                raise
            call.ended("OK")

        return answer


class _Call:
    """A call in flight."""

    def __init__(self, metrics: Metrics, method: str, context: grpc.aio.ServicerContext, number: int) -> None:
        self._metrics, self._method, self._context = metrics, method, context
        self._began = time.monotonic()
        metrics.in_flight[method].inc()
        bind(request=number, peer=context.peer())  # the task is this call's alone, so nobody need undo it

    def failed(self, error: BaseException) -> None:
        """Count an end that is no answer: refused, left by its peer, or a bug."""
        if isinstance(error, asyncio.CancelledError | GeneratorExit | grpc.aio.InternalError):  # the last: it cannot be sent
            self.ended("CANCELLED")
        elif isinstance(error, grpc.aio.AbortError):
            told = dict(self._context.trailing_metadata() or ())
            self.ended(self._context.code().name, told.get(ERROR_KIND_KEY, BUG))
        else:
            self.ended("UNKNOWN", BUG)

    def ended(self, code: str, reason: str | None = None) -> None:
        """Count the end."""
        self._metrics.in_flight[self._method].dec()
        self._metrics.answered(self._method, code, time.monotonic() - self._began, reason)
