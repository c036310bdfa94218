"""A verifier that answers as a test says, honest where it says nothing, and ways to answer that suit no question."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
        self.metadata: list[dict[str, str | bytes]] = []
        """That came with each call."""
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
        self.metadata.append({key: value for key, value in context.invocation_metadata()})
        asked = Asked(request, context, len(self.calls(method)), self._honest(method, request), self)
        return self.answers[method](asked) if method in self.answers else asked.honest

    def _stream(self, request: Any, context: grpc.ServicerContext) -> Iterator[Message | bytes]:
        self.metadata.append({key: value for key, value in context.invocation_metadata()})
        yield from self.answers["Generate"](Asked(request, context, 1, None, self))  # type: ignore[misc]

    def _honest(self, method: str, request: Any) -> Message:
        if method == "ModelInfo":
            info = pb.ModelInfoResponse()
            info.CopyFrom(self.info)
            return info
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
def hostile(
    info: pb.ModelInfoResponse, answers: dict[str, Answer], tls: grpc.ServerCredentials | None = None, host: str = "127.0.0.1"
) -> Iterator[HostileServer]:
    """Serve on a free port."""
    handler = HostileServer(info, answers)
    with ThreadPoolExecutor(8, thread_name_prefix="hostile") as pool:
        server = grpc.server(pool, handlers=(handler,))
        port = server.add_secure_port(f"{host}:0", tls) if tls else server.add_insecure_port(f"{host}:0")
        handler.target = f"{host}:{port}"
        server.start()
        try:
            yield handler
        finally:
            handler.over.set()
            server.stop(0).wait()


# ---------------------------------------------------------------- ways to answer

NONE = "no verifier answers"
LATE = "did not answer in time"
NONSENSE = "the verifier's answer makes no sense"
UNREADABLE = "cannot be read"


def but(**fields: Any) -> Answer:
    """The honest answer but for some fields; None leaves one out."""

    def answer(asked: Asked) -> Any:
        for name, value in fields.items():
            if value is None:
                asked.honest.ClearField(name)
            elif isinstance(value, list):
                getattr(asked.honest, name)[:] = value
            else:
                setattr(asked.honest, name, value)
        return asked.honest

    return answer


def raw(message: bytes) -> Answer:
    return lambda asked: message


def field_of(number: int, content: bytes) -> bytes:
    """A length-delimited field; of at most 127 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def fails(code: grpc.StatusCode, details: Any = "why", kind: str | None = None, **metadata: Any) -> Answer:
    return lambda asked: asked.abort(code, details, kind, **metadata)


def from_call(count: int, answer: Answer) -> Answer:
    """Honest at first."""
    return lambda asked: answer(asked) if asked.count >= count else asked.honest


def until_call(count: int, answer: Answer) -> Answer:
    """Honest in the end."""
    return lambda asked: answer(asked) if asked.count <= count else asked.honest


def hangs(asked: Asked) -> None:
    asked.hang()


def compressed(answer: Answer) -> Answer:
    def compress(asked: Asked) -> Any:
        asked.context.set_compression(grpc.Compression.Gzip)
        return answer(asked)

    return compress


def undecodable_details(asked: Asked) -> bytes:
    asked.context.set_code(grpc.StatusCode.INTERNAL)
    asked.context.set_details(b"\xff\xfe no text")
    return b""


UNREADABLES = {
    "garbage": raw(b"\xff" * 40),
    "a message cut short": lambda asked: asked.honest.SerializeToString()[:-3],
    "60 kB of garbage": raw(b"\xff" * 60_000),
}
TOO_LONG = {"5 MB": raw(field_of(15, b"x" * 50) * 100_000), "70 kB": raw(field_of(15, b"x" * 50) * 1400)}
_EMPTY = field_of(15, b"\0" * 50)
COMPRESSED = {
    "compressed": compressed(lambda asked: asked.honest.SerializeToString() + _EMPTY * 20),
    "a compressed bomb": compressed(raw(_EMPTY * 200_000)),
}
NAMES = ["KeyboardInterrupt", "SystemExit", "UncoveredError", "ContextOverflowError", "SyneraError", "SettingError", "__doc__"]
NAMES += ["BadAnswerError", "annotations", "CheckpointError", "", "SessionLostError "]
CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
SAYS_OF_CODE = {
    grpc.StatusCode.UNAVAILABLE: NONE,
    grpc.StatusCode.CANCELLED: NONE,
    grpc.StatusCode.DEADLINE_EXCEEDED: LATE,
    grpc.StatusCode.UNIMPLEMENTED: "does not take this request",
    grpc.StatusCode.UNAUTHENTICATED: r"does not take this device \(UNAUTHENTICATED: why\)",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "does not take this request",
}
DETAILS: dict[str, tuple[Answer, str]] = {
    "details of 1 MB": (fails(grpc.StatusCode.INTERNAL, "x" * 1_000_000), "metadata size exceeds"),
    "details of 4 kB": (fails(grpc.StatusCode.INTERNAL, "x" * 4000), r"INTERNAL: x+\.\.\."),
    "details of 4 kB, named": (fails(grpc.StatusCode.INTERNAL, "x" * 4000, "CloudError"), r"^x+\.\.\.$"),
    "details that act on a terminal": (fails(grpc.StatusCode.INTERNAL, "\x1b[2J\r\n\u202eno"), r"\?\[2J\?\?\?no"),
    "details that act on a terminal, named": (fails(grpc.StatusCode.INTERNAL, "\x1b]0;\a\x00", "CloudError"), r"^\?\]0;\?\?$"),
    "details that are no text": (undecodable_details, "INTERNAL"),
    "no details": (fails(grpc.StatusCode.INTERNAL, ""), r"INTERNAL: \)"),
    "binary metadata": (fails(grpc.StatusCode.INTERNAL, synera_error_kind_bin=b"\xff\0"), "INTERNAL: why"),
    "a name of 100 kB": (fails(grpc.StatusCode.INTERNAL, kind="k" * 100_000), "metadata size exceeds"),
    "a name of 4 kB": (fails(grpc.StatusCode.INTERNAL, kind="k" * 4000), "INTERNAL: why"),
}
