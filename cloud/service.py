"""The gRPC face of the verifier: handlers, and the one map from exceptions to statuses (read back in runtime/client.py).

What does not live here: what the handlers do (verify.py, generate.py) and the process (server.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import asdict
from typing import NoReturn

import grpc

from cloud.engine.base import Check
from cloud.generate import Generation
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
        try:
            session_id = await self._verification.open(request.tokenizer_hash)
        except _EXPECTED as error:
            await _abort(context, error)
        return pb.OpenResponse(
            session_id=session_id, lease_seconds=self._lease_seconds, fingerprint=self._verification.info.fingerprint
        )

    async def Verify(self, request: pb.VerifyRequest, context: grpc.aio.ServicerContext) -> pb.VerifyResponse:
        """Check a draft."""
        check = Check(request.prefix_length, tuple(request.context), tuple(request.draft))
        try:
            checked = await self._verification.verify(VerifyRequest(request.session_id, request.seq, check))
        except _EXPECTED as error:
            await _abort(context, error)
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
        await self._verification.close(request.session_id)
        return pb.CloseResponse()

    async def Generate(
        self, request: pb.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GenerateResponse]:
        """Stream the LLM's own answer."""
        try:
            async with aclosing(self._generation.generate(tuple(request.prompt), request.max_new_tokens)) as tokens:
                async for each in tokens:
                    yield pb.GenerateResponse(token=each.token, queue_ms=each.queue_ms, compute_ms=each.compute_ms)
        except _EXPECTED as error:
            await _abort(context, error)
