"""The gRPC face of the verifier: handlers, and the one map from exceptions to statuses (read back in runtime/client.py).

What does not live here: what the handlers do (verification.py) and the process (server.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import NoReturn

import grpc

from cloud.verify import Verification, VerifyRequest
from runtime.errors import (
    CloudBusyError,
    CloudError,
    CloudRejectedError,
    CloudUnavailableError,
    SessionLostError,
    TokenizerMismatchError,
)
from runtime.wire import ERROR_KIND_KEY, synera_pb2_grpc
from runtime.wire import synera_pb2 as pb

STATUS: dict[type[Exception], grpc.StatusCode] = {
    TokenizerMismatchError: grpc.StatusCode.FAILED_PRECONDITION,
    SessionLostError: grpc.StatusCode.NOT_FOUND,
    CloudBusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    CloudRejectedError: grpc.StatusCode.INVALID_ARGUMENT,
    CloudUnavailableError: grpc.StatusCode.UNAVAILABLE,
    CloudError: grpc.StatusCode.INTERNAL,
}
"""Status of each exception that the verifier raises on purpose; any other is a bug and becomes UNKNOWN."""
_EXPECTED = tuple(STATUS)


async def _abort(context: grpc.aio.ServicerContext, error: Exception) -> NoReturn:
    kind = next(each for each in type(error).__mro__ if each in STATUS)
    await context.abort(STATUS[kind], str(error), ((ERROR_KIND_KEY, kind.__name__),))
    raise AssertionError("unreachable: abort raises")


class SyneraServicer(synera_pb2_grpc.SyneraServicer):
    """Implements the service of synera.proto; see there for each message."""

    def __init__(self, verification: Verification, *, lease_seconds: float, paced: bool) -> None:
        self._verification, self._lease_seconds, self._paced = verification, lease_seconds, paced

    async def ModelInfo(self, request: pb.ModelInfoRequest, context: grpc.aio.ServicerContext) -> pb.ModelInfoResponse:
        """What is served."""
        v = self._verification
        return pb.ModelInfoResponse(
            **asdict(v.info), tokenizer_hash=v.tokenizer_hash, max_draft_tokens=v.max_draft_tokens, paced=self._paced
        )

    async def Open(self, request: pb.OpenRequest, context: grpc.aio.ServicerContext) -> pb.OpenResponse:
        """Start a session."""
        try:
            session_id = self._verification.open(request.tokenizer_hash)
        except _EXPECTED as error:
            await _abort(context, error)
        return pb.OpenResponse(session_id=session_id, lease_seconds=self._lease_seconds)

    async def Verify(self, request: pb.VerifyRequest, context: grpc.aio.ServicerContext) -> pb.VerifyResponse:
        """Check a draft."""
        asked = VerifyRequest(
            request.session_id, request.seq, request.prefix_length, tuple(request.context), tuple(request.draft)
        )
        try:
            verified = await self._verification.verify(asked)
        except _EXPECTED as error:
            await _abort(context, error)
        return pb.VerifyResponse(**asdict(verified))

    async def Close(self, request: pb.CloseRequest, context: grpc.aio.ServicerContext) -> pb.CloseResponse:
        """Release a session."""
        self._verification.close(request.session_id)
        return pb.CloseResponse()

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Stream the LLM's own answer."""
        try:
            async for each in self._verification.generate(tuple(request.prompt), request.max_new_tokens):
                yield pb.GenerateResponse(token=each.choices[0], queue_ms=each.queue_ms, compute_ms=each.compute_ms)
        except _EXPECTED as error:
            await _abort(context, error)
