"""The gRPC face of the verifier: handlers, and the one place where errors become statuses (read back in runtime/client.py).

What does not live here: what the handlers do (openings.py, verify.py, generate.py, sketch.py, forward.py) and the process (server.py).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import asdict
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError

from cloud.engine.base import Check
from cloud.forward import Forwarding, ForwardRequest
from cloud.generate import Generation
from cloud.handlers import KINDS
from cloud.identity import client_of
from cloud.log import fields
from cloud.openings import Openings
from cloud.sketch import Sketching
from cloud.verify import Verification, VerifyRequest
from runtime.errors import (
    CloudBusyError,
    CloudRejectedError,
    SettingError,
)
from runtime.settings import plain
from runtime.wire import ERROR_KIND_KEY, RETRY_AFTER_KEY, synera_pb2_grpc
from runtime.wire import synera_pb2 as pb
from runtime.wire.sampled import read_sampled, read_sampling
from runtime.wire.statuses import STATUS

SERVICE = pb.DESCRIPTOR.services_by_name["Synera"].full_name
LONGEST_DETAILS = 500
"""Characters of a status. Escaped for the wire each takes up to 12 bytes, and peers take 8 KB of trailers."""
_WRITERS = frozenset({"Open", "Generate", "Sketch", "Forward"})
"""Methods that write their answers themselves, as only so they learn whether those could be sent. On the wire an answer that
is written looks like one that is returned."""
_PATIENCES = 10
"""How often an answer may wait for its reader as long as it may at a time."""
_log = logging.getLogger(__name__)
_Request = TypeVar("_Request")
_Value = TypeVar("_Value")


class SyneraServicer(synera_pb2_grpc.SyneraServicer):
    """Implements the service of synera.proto; see there for each message. What its handlers raise, `Statuses` tells."""

    def __init__(
        self,
        openings: Openings,
        verification: Verification,
        generation: Generation,
        forwarding: Forwarding,
        sketching: Sketching | None,
        *,
        lease_seconds: float,
        reader_seconds: float,
        paced: bool,
    ) -> None:
        self._openings, self._verification = openings, verification
        self._generation, self._forwarding, self._sketching = generation, forwarding, sketching
        self._lease_seconds, self._reader_seconds, self._paced = lease_seconds, reader_seconds, paced

    async def ModelInfo(self, request: pb.ModelInfoRequest, context: grpc.aio.ServicerContext) -> pb.ModelInfoResponse:
        """What is served."""
        known = asdict(self._openings.info)
        del known["placement"]  # which is no device's business
        return pb.ModelInfoResponse(
            **known,
            tokenizer_hash=self._openings.tokenizer_hash,
            max_draft_tokens=self._verification.max_draft_tokens,
            paced=self._paced,
        )

    async def Open(self, request: pb.OpenRequest, context: grpc.aio.ServicerContext) -> None:  # type: ignore[override]
        """Start a session, which ends again where its id cannot be sent."""
        session_id = await self._openings.open(request.tokenizer_hash, request.key, client_of(context))
        answer = pb.OpenResponse(
            session_id=session_id, lease_seconds=self._lease_seconds, fingerprint=self._openings.info.fingerprint
        )
        try:
            await _Writer(context, self._reader_seconds).write(answer)
        except BaseException:
            self._openings.unsent(session_id)
            raise

    async def Verify(self, request: pb.VerifyRequest, context: grpc.aio.ServicerContext) -> pb.VerifyResponse:
        """Check a draft."""
        sampled, slack = _asked(read_sampled, request), _slack(request, context)
        check = Check(request.prefix_length, request.context, request.draft, sampled, slack)
        asked = VerifyRequest(request.session_id, request.seq, check)
        checked = await self._verification.verify(asked, client_of(context))
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
        cost = await self._openings.close(request.session_id, request.key, client_of(context))
        return pb.CloseResponse(compute_ms=cost.compute_ms, processed_tokens=cost.processed_tokens)

    async def Generate(self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext) -> None:  # type: ignore[override]
        """Stream the LLM's own answer."""
        sampling, client = _asked(read_sampling, request), client_of(context)
        writer = _Writer(context, self._reader_seconds)
        asked = request.prompt, request.max_new_tokens, sampling, client, request.log_probabilities
        async with aclosing(self._generation.generate(*asked)) as tokens:
            async for each in tokens:
                answer = pb.GenerateResponse(
                    token=each.token,
                    queue_ms=each.queue_ms,
                    compute_ms=each.compute_ms,
                    log_probability=each.log_probability,
                )
                await writer.write(answer)

    async def Sketch(self, request: pb.SketchRequest, context: grpc.aio.ServicerContext) -> None:  # type: ignore[override]
        """Stream the key points of an answer."""
        if self._sketching is None:
            raise CloudRejectedError("this verifier writes no sketches; start it with --sketch")
        sampling, client = _asked(read_sampling, request), client_of(context)
        writer = _Writer(context, self._reader_seconds)
        asked = request.prompt, request.length, request.max_new_tokens, sampling, client
        async with aclosing(self._sketching.sketch(*asked)) as lines:
            async for each in lines:
                answer = pb.SketchResponse(
                    text=each.line.text,
                    heading=each.line.heading,
                    tokens=each.tokens,
                    queue_ms=each.queue_ms,
                    compute_ms=each.compute_ms,
                )
                await writer.write(answer)

    async def Forward(self, requests: AsyncIterator[pb.ForwardRequest], context: grpc.aio.ServicerContext) -> None:  # type: ignore[override]
        """Run chunks of hidden states through the middle of a split model."""
        asked = (_forward_request(each, context) async for each in requests)
        writer = _Writer(context, self._reader_seconds)
        async with aclosing(self._forwarding.forward(asked, client_of(context))) as answers:
            async for each in answers:
                ran, estimate = each.ran, each.estimate
                answer = pb.ForwardResponse(
                    seq=each.seq,
                    states=ran.states,
                    queue_ms=ran.queue_ms,
                    compute_ms=ran.compute_ms,
                    compute_share_ms=ran.compute_share_ms,
                    forward_ms=estimate.forward_ms,
                    token_ms=estimate.token_ms,
                    load=ran.load,
                )
                await writer.write(answer)


def _forward_request(request: pb.ForwardRequest, context: grpc.aio.ServicerContext) -> ForwardRequest:
    return ForwardRequest(
        request.session_id,
        request.seq,
        request.prefix_length,
        request.states,
        request.precision,
        request.returned,
        _slack(request, context),
    )


def _slack(request: pb.VerifyRequest | pb.ForwardRequest, context: grpc.aio.ServicerContext) -> float | None:
    """How long a device can do without the answer, seconds."""
    return request.slack_ms / 1e3 if request.HasField("slack_ms") else context.time_remaining()


class _Writer:
    """Writes the answers of one call, and gives up where the peer does not read on.

    Measured with grpcio 1.80: a write waits for the peer's HTTP/2 window, also with the first message; it may be cancelled;
    the status that the call is then aborted with waits behind that message, and arrives once the peer reads on.
    """

    def __init__(self, context: grpc.aio.ServicerContext, reader_seconds: float) -> None:
        self._context, self._seconds, self._left_seconds = context, reader_seconds, _PATIENCES * reader_seconds
        self._begun = False

    async def write(self, message: Any) -> None:
        """Send one more.

        Raises:
            CloudBusyError: it was not read in time.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            async with asyncio.timeout(min(self._seconds, self._left_seconds)):
                if not self._begun:  # by itself: after a write that was given up gRPC would send it once more
                    await self._context.send_initial_metadata(())
                    self._begun = True
                await self._context.write(message)
        except TimeoutError:
            raise CloudBusyError(
                f"the answer was not read on for {loop.time() - began:.3g} s, so it ended here; ask again, and read as it comes"
            ) from None
        self._left_seconds -= loop.time() - began


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
        return _guarded(handler, method)


def _guarded(handler: Any, method: str) -> grpc.RpcMethodHandler:
    call = getattr(handler, KINDS[handler.request_streaming, handler.response_streaming][0])
    read = _each_read if handler.request_streaming else _read

    async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            return await call(read(request), context)
        except grpc.aio.InternalError:
            raise  # what was written cannot be sent: the peer is gone
        except Exception as error:
            await _abort(context, error, method, request)

    _, make = KINDS[handler.request_streaming, method in _WRITERS]
    made: grpc.RpcMethodHandler = make(answer, _reader(handler), handler.response_serializer)
    return made


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


async def _each_read(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _read(request)


async def _abort(context: grpc.aio.ServicerContext, error: Exception, method: str, request: Any) -> NoReturn:
    kind = next((each for each in type(error).__mro__ if each in STATUS), None)
    details = plain(str(error), LONGEST_DETAILS)
    event = fields(method=method, session=plain(getattr(request, "session_id", ""), LONGEST_DETAILS), reason=details)
    if kind is None:
        _log.error("handler failed", exc_info=error, extra=event)
        await context.abort(grpc.StatusCode.INTERNAL, f"a bug in the verifier: {type(error).__name__}")
    else:
        _log.log(logging.WARNING if kind is CloudBusyError else logging.DEBUG, "request refused", extra=event)
        await context.abort(STATUS[kind], details, ((ERROR_KIND_KEY, kind.__name__), *_retry_after(error)))
    raise AssertionError("unreachable: abort raises")


def _retry_after(error: Exception) -> tuple[tuple[str, str], ...]:
    """The metadata that says when to come back, where the error knows."""
    seconds = error.retry_after_seconds if isinstance(error, CloudBusyError) else None
    return () if seconds is None else ((RETRY_AFTER_KEY, str(max(1, math.ceil(seconds * 1e3)))),)
