"""A verifier that answers at once and computes nothing: what a load generator can do at all is measured against it.

What does not live here: the load (_load.py).
"""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import grpc
import grpc.aio

from runtime.wire import synera_pb2 as pb
from runtime.wire import synera_pb2_grpc
from runtime.wire.sizes import SESSION_ID_CHARACTERS
from scripts._load import LoadError
from scripts._load_plan import Target

_TOKEN = 5
_START_SECONDS = 60.0


@contextmanager
def nothing_process() -> Iterator[Target]:
    """Run one in a process of its own.

    Yields:
        Where it listens. On exit it is gone.

    Raises:
        LoadError: it did not start.
    """
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,), name="nothing", daemon=True)
    process.start()
    theirs.close()
    try:
        if not ours.poll(_START_SECONDS):
            raise LoadError(f"the verifier that computes nothing did not start within {_START_SECONDS:g} s")
        yield Target((f"127.0.0.1:{ours.recv()}",), pid=process.pid)
    finally:
        process.kill()
        process.join()
        ours.close()


def _serve(pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    async def live() -> None:
        server = grpc.aio.server()
        synera_pb2_grpc.add_SyneraServicer_to_server(_Nothing(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        pipe.send(port)
        await server.wait_for_termination()

    asyncio.run(live())


class _Nothing(synera_pb2_grpc.SyneraServicer):
    """Takes every draft as it is."""

    async def ModelInfo(self, request: pb.ModelInfoRequest, context: Any) -> pb.ModelInfoResponse:
        """A model of no use."""
        return pb.ModelInfoResponse(
            model="nothing", fingerprint="nothing", tokenizer_hash="nothing", context_tokens=512, max_draft_tokens=16, vocab=512
        )

    async def Open(self, request: pb.OpenRequest, context: Any) -> pb.OpenResponse:
        """Any session."""
        return pb.OpenResponse(session_id=secrets.token_hex(SESSION_ID_CHARACTERS // 2), fingerprint="nothing")

    async def Verify(self, request: pb.VerifyRequest, context: Any) -> pb.VerifyResponse:
        """All accepted."""
        tokens = len(request.context) + len(request.draft)
        return pb.VerifyResponse(
            accepted=len(request.draft),
            next_token=_TOKEN,
            queue_ms=0.0,
            compute_ms=0.0,
            compute_share_ms=0.0,
            processed_tokens=tokens,
            load=1,
        )

    async def Close(self, request: pb.CloseRequest, context: Any) -> pb.CloseResponse:
        """Nothing to release."""
        return pb.CloseResponse()

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        """As many tokens as were asked for."""
        for _ in range(request.max_new_tokens):
            yield pb.GenerateResponse(token=_TOKEN, queue_ms=0.0, compute_ms=0.0)
