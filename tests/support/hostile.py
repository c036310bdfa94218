"""A verifier that answers as a test says, honest where it says nothing, and what else may stand behind an address."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import Message

from cloud.server import SERVICE
from runtime.device import Device
from runtime.wire import ERROR_KIND_KEY
from runtime.wire import synera_pb2 as pb

NEXT = 7
"""What an honest verdict puts after a draft, all of which it accepts."""


@dataclass
class Asked:
    """A call, as an answer may want to look at it."""

    request: Any
    context: grpc.ServicerContext
    count: int
    """Calls of this method so far, this one included."""
    honest: Any
    """What an honest verifier would say."""
    server: HostileServer

    def abort(self, code: grpc.StatusCode, details: Any = "why", kind: str | None = None, **metadata: Any) -> None:
        """Fail the call."""
        named = {ERROR_KIND_KEY: kind} if kind is not None else {}
        pairs = (named | {key.replace("_", "-"): value for key, value in metadata.items()}).items()
        self.context.set_trailing_metadata(tuple(pairs))
        self.context.abort(code, details)

    def hang(self, seconds: float = 60.0) -> None:
        """Answer nothing before the test's end."""
        self.server.hanging.release()
        self.server.over.wait(seconds)


Answer = Callable[[Asked], Message | bytes | None]
_REQUESTS = {
    "ModelInfo": pb.ModelInfoRequest,
    "Open": pb.OpenRequest,
    "Verify": pb.VerifyRequest,
    "Close": pb.CloseRequest,
    "Generate": pb.GenerateRequest,
}


def info_of(device: Device) -> pb.ModelInfoResponse:
    """What a verifier that fits a device says of itself."""
    return pb.ModelInfoResponse(
        model="hostile",
        architecture="None",
        fingerprint="0123456789abcdef",
        tokenizer_hash=device.tokenizer_hash,
        context_tokens=256,
        max_draft_tokens=16,
        vocab=device.slm.config.vocab,
        engine="none",
    )


class HostileServer(grpc.GenericRpcHandler):
    """One verifier and what it was asked."""

    def __init__(self, info: pb.ModelInfoResponse, answers: dict[str, Answer]) -> None:
        self.info, self.answers = info, answers
        self.asked: list[tuple[str, Any]] = []
        """Method and request of each call."""
        self.over = threading.Event()
        self.hanging = threading.Semaphore(0)
        """Counts the calls that were left hanging."""
        self.target = ""

    def calls(self, method: str) -> list[Any]:
        """Requests of a method."""
        return [request for name, request in self.asked if name == method]

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = details.method.removeprefix(f"/{SERVICE}/")
        if method not in _REQUESTS:
            return None
        request = _REQUESTS[method].FromString
        if method == "Generate":
            return grpc.unary_stream_rpc_method_handler(self._stream, request, _as_bytes)
        return grpc.unary_unary_rpc_method_handler(lambda asked, context: self._one(method, asked, context), request, _as_bytes)

    def _one(self, method: str, request: Any, context: grpc.ServicerContext) -> Message | bytes | None:
        self.asked.append((method, request))
        asked = Asked(request, context, len(self.calls(method)), self._honest(method, request), self)
        return self.answers[method](asked) if method in self.answers else asked.honest

    def _stream(self, request: Any, context: grpc.ServicerContext) -> Iterator[Message | bytes]:
        yield from self.answers["Generate"](Asked(request, context, 1, None, self))  # type: ignore[misc]

    def _honest(self, method: str, request: Any) -> Message:
        if method == "ModelInfo":
            return self.info
        if method == "Open":
            return pb.OpenResponse(session_id=f"{len(self.asked):032x}", fingerprint=self.info.fingerprint, lease_seconds=60)
        if method == "Verify":
            return pb.VerifyResponse(
                accepted=len(request.draft),
                next_token=NEXT,
                queue_ms=0.0,
                compute_ms=0.001,
                compute_share_ms=0.001,
                processed_tokens=len(request.draft) + 1,
                load=1,
            )
        return pb.CloseResponse()


def _as_bytes(answer: Message | bytes) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


@contextmanager
def hostile(info: pb.ModelInfoResponse, answers: dict[str, Answer]) -> Iterator[HostileServer]:
    """Serve on a free port."""
    handler = HostileServer(info, answers)
    with ThreadPoolExecutor(8, thread_name_prefix="hostile") as pool:
        server = grpc.server(pool, handlers=(handler,))
        handler.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield handler
        finally:
            handler.over.set()
            server.stop(0).wait()


# ---------------------------------------------------------------- below gRPC

Served = Callable[[socket.socket], None]
"""What is done with a connection; it is closed afterwards."""


def reset(connection: socket.socket) -> None:
    """Let the close of a connection be a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def says(answer: bytes) -> Served:
    """Say the same to whatever is heard first, then listen until the other side ends."""

    def serve(connection: socket.socket) -> None:
        heard = connection.recv(65536)
        connection.sendall(answer)
        while heard:
            heard = connection.recv(65536)

    return serve


class Gate:
    """A TCP port whose connections go to `behind` or to `instead`, and can be cut."""

    def __init__(self, listening: socket.socket, behind: str) -> None:
        self.target = f"127.0.0.1:{listening.getsockname()[1]}"
        self.instead: Served | None = None
        self._listening, self._behind = listening, behind
        self._open: list[socket.socket] = []
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def cut(self, *, hard: bool = False) -> None:
        """End all connections; a hard end is a reset."""
        with self._lock:
            ended, self._open = self._open, []
        for each in ended:
            with suppress(OSError):
                if hard:
                    reset(each)
                else:
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def end(self) -> None:
        """Stop listening, cut, and join the threads."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self.cut()
        for each in self._threads:
            each.join()

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, name="gate", daemon=True))
        self._threads[-1].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                self._keep(connection)
                self._start(self._serve, connection)

    def _keep(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.append(connection)

    def _serve(self, connection: socket.socket) -> None:
        with closing(connection), suppress(OSError):
            if self.instead is not None:
                self.instead(connection)
                return
            host, port = self._behind.split(":")
            with socket.create_connection((host, int(port))) as onward:
                self._keep(onward)
                back = threading.Thread(target=_pump, args=(onward, connection), name="gate", daemon=True)
                back.start()
                _pump(connection, onward)
                back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    for each in (source, sink):
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@contextmanager
def gate(behind: str = "", instead: Served | None = None) -> Iterator[Gate]:
    """Listen on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = Gate(listening, behind)
        made.instead = instead
        try:
            yield made
        finally:
            made.end()
