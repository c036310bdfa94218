"""gRPC handlers of any kind, with something around each call.

What does not live here: what that is (calls.py, authentication.py).
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import grpc

KINDS: dict[tuple[bool, bool], tuple[str, Callable[..., Any]]] = {
    (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
    (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
    (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
    (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
"""Whether requests and answers are streamed, to the handler's attribute and what makes one."""


def surrounded(
    handler: Any, around: Callable[[grpc.aio.ServicerContext], AbstractAsyncContextManager[Any]]
) -> grpc.RpcMethodHandler:
    """Return a handler that handles each call within what `around` makes for it; whether it yields its answers, writes or returns them."""
    attribute, make = KINDS[handler.request_streaming, handler.response_streaming]
    inner = getattr(handler, attribute)

    async def awaited(request: Any, context: grpc.aio.ServicerContext) -> Any:
        async with around(context):
            return await inner(request, context)

    async def yielding(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async with around(context), aclosing(inner(request, context)) as answers:
            async for each in answers:
                yield each

    answer = yielding if inspect.isasyncgenfunction(inner) else awaited
    made: grpc.RpcMethodHandler = make(answer, handler.request_deserializer, handler.response_serializer)
    return made
