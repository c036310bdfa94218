"""The gRPC face of the verifier: handlers, and the one place where errors become statuses (read back in runtime/client.py).

What does not live here: what the handlers do (verify.py, generate.py) and the process (server.py).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError

from cloud.engine.base import Check
from cloud.generate import Generation
from cloud.identity import client_of
from cloud.log import fields
from cloud.verify import Verification, VerifyRequest
from runtime.errors import (
    CloudBusyError,
    CloudRejectedError,
    SettingError,
)
from runtime.settings import plain
from runtime.wire import ERROR_KIND_KEY, synera_pb2_grpc
from runtime.wire import synera_pb2 as pb
from runtime.wire.sampled import read_sampled, read_sampling
from runtime.wire.statuses import STATUS

SERVICE = pb.DESCRIPTOR.services_by_name["Synera"].full_name
LONGEST_DETAILS = 500
"""Characters of a status. Escaped for the wire each takes up to 12 bytes, and peers take 8 KB of trailers."""
_log = logging.getLogger(__name__)
_Request = TypeVar("_Request")
_Value = TypeVar("_Value")


class SyneraServicer(synera_pb2_grpc.SyneraServicer):
    """Implements the service of synera.proto; see there for each message. What its handlers raise, `Statuses` tells."""

    def __init__(self, verification: Verification, generation: Generation, *, lease_seconds: float, paced: bool) -> None:
        self._verification, self._generation = verification, generation
        self._lease_seconds, self._paced = lease_seconds, paced

    async def ModelInfo(self, request: pb.ModelInfoRequest, context: grpc.aio.ServicerContext) -> pb.ModelInfoResponse:
        """What is served."""
        v = self._verification
        return pb.ModelInfoResponse(
            **asdict(v.info), tokenizer_hash=v.tokenizer_hash, max_draft_tokens=v.max_draft_tokens, paced=self._paced
        )

    async def Open(self, request: pb.OpenRequest, context: grpc.aio.ServicerContext) -> pb.OpenResponse:
        """Start a session."""
        session_id = await self._verification.open(request.tokenizer_hash, request.key, client_of(context).account)
        return pb.OpenResponse(
            session_id=session_id, lease_seconds=self._lease_seconds, fingerprint=self._verification.info.fingerprint
        )

    async def Verify(self, request: pb.VerifyRequest, context: grpc.aio.ServicerContext) -> pb.VerifyResponse:
        """Check a draft."""
        check = Check(request.prefix_length, request.context, request.draft, _asked(read_sampled, request))
        checked = await self._verification.verify(VerifyRequest(request.session_id, request.seq, check))
        return pb.VerifyResponse(
            accepted=checked.accepted,
            next_token=checked.next_token,
            queue_ms=checked.queue_ms,
            compute_ms=checked.compute_ms,
            compute_share_ms=checked.compute_share_ms,
            processed_tokens=checked.processed_tokens,
            load=checked.load,
        )

    async def Close(self, request: pb.CloseRequest, context: grpc.aio.ServicerContext) -> pb.CloseResponse:
        """Release a session."""
        cost = await self._verification.close(request.session_id, request.key)
        return pb.CloseResponse(compute_ms=cost.compute_ms, processed_tokens=cost.processed_tokens)

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Stream the LLM's own answer."""
        sampling = _asked(read_sampling, request)
        stream = self._generation.generate(request.prompt, request.max_new_tokens, sampling, client_of(context).account)
        async with aclosing(stream) as tokens:
            async for each in tokens:
                yield pb.GenerateResponse(token=each.token, queue_ms=each.queue_ms, compute_ms=each.compute_ms)


def _asked(read: Callable[[_Request], _Value], request: _Request) -> _Value:
    """Read a part of a request.

    Raises:
        CloudRejectedError: it makes no sense.
    """
    try:
        return read(request)
    except SettingError as wrong:
        raise CloudRejectedError(str(wrong)) from None


class Statuses(grpc.aio.ServerInterceptor):
    """Stands around every handler of the service: whatever it raises ends as a status of bounded size.

    An error of `STATUS` tells its message and its kind. Any other is a bug: its trace goes to the log, its type to the
    peer. A message that cannot be read is rejected.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """See :class:`grpc.aio.ServerInterceptor`."""
        handler: Any = await continuation(handler_call_details)
        service, _, method = handler_call_details.method.lstrip("/").rpartition("/")
        if handler is None or service != SERVICE:  # health and reflection answer for themselves
            return handler
        return _streaming(handler, method) if handler.response_streaming else _unary(handler, method)


def _unary(handler: Any, method: str) -> grpc.RpcMethodHandler:
    async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            return await handler.unary_unary(_read(request), context)
        except Exception as error:
            await _abort(context, error, method, request)

    return grpc.unary_unary_rpc_method_handler(answer, _reader(handler), handler.response_serializer)


def _streaming(handler: Any, method: str) -> grpc.RpcMethodHandler:
    async def answer(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        try:
            async with aclosing(handler.unary_stream(_read(request), context)) as answers:
                async for each in answers:
                    yield each
        except Exception as error:
            await _abort(context, error, method, request)

    return grpc.unary_stream_rpc_method_handler(answer, _reader(handler), handler.response_serializer)


def _reader(handler: Any) -> Callable[[bytes], Any]:
    """The handler's reading of a message, but that what cannot be read is an answer too: gRPC would tell it in its own way."""

    def read(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except DecodeError as error:
            return error

    return read


def _read(request: Any) -> Any:
    if isinstance(request, DecodeError):
        raise CloudRejectedError(f"the message cannot be read ({request}); is the peer of this version?")
    return request


async def _abort(context: grpc.aio.ServicerContext, error: Exception, method: str, request: Any) -> NoReturn:
    kind = next((each for each in type(error).__mro__ if each in STATUS), None)
    details = plain(str(error), LONGEST_DETAILS)
    event = fields(method=method, session=plain(getattr(request, "session_id", ""), LONGEST_DETAILS), reason=details)
    if kind is None:
        _log.error("handler failed", exc_info=error, extra=event)
        await context.abort(grpc.StatusCode.INTERNAL, f"a bug in the verifier: {type(error).__name__}")
    else:
        _log.log(logging.WARNING if kind is CloudBusyError else logging.DEBUG, "request refused", extra=event)
        await context.abort(STATUS[kind], details, ((ERROR_KIND_KEY, kind.__name__),))
    raise AssertionError("unreachable: abort raises")
