"""A scripted verifier of the middle: it gives back the states that it is sent, and holds a device to the contract.

A test says what it does instead. What does not live here: a real one (cloud/), and clouds that fail as processes do (scripts/benchmarks/).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from cloud.server import SERVICE
from runtime.hat.opening import Terms
from runtime.wire import ERROR_KIND_KEY
from runtime.wire import synera_pb2 as pb
from runtime.wire.sizes import PRECISIONS, row_bytes
from runtime.wire.statuses import STATUS

HIDDEN, MAX_ROWS = 8, 16
TERMS = Terms("0" * 16, "f" * 16, HIDDEN, MAX_ROWS)


class Refusal(Exception):
    """Ends a call with the status of an error."""

    def __init__(self, kind: type[Exception], details: str = "why", **metadata: str) -> None:
        super().__init__(details)
        self.kind, self.metadata = kind, metadata


class Broken(Exception):
    """Ends a call as a connection does that breaks."""


@dataclass
class Held:
    """A session."""

    states: bytes = b""
    answers: list[pb.ForwardResponse] = field(default_factory=list)
    asked: list[bytes] = field(default_factory=list)


Script = Callable[["Middle", pb.ForwardRequest, int], Any]
"""Called with each chunk and the number of its stream, from 1; what it returns is answered instead, unless that is None."""


class Middle(grpc.GenericRpcHandler):
    """One verifier, and what it was asked."""

    def __init__(self, script: Script | None, opens: Callable[[Middle, int], Any] | None, terms: Terms) -> None:
        self._script, self._opens, self._terms = script, opens, terms
        self.sessions: dict[str, Held] = {}
        self.chunks: list[tuple[int, str, int]] = []
        """Number of the stream, session and number of each chunk, as they came."""
        self.opened = self.streams = self.streams_open = 0
        self.keys: dict[str, str] = {}
        self.released: list[str] = []
        self.deaf = 0
        """So many releases are not heard."""
        self.over = threading.Event()
        self._changed = threading.Condition()
        self.target = ""

    def wait_for(self, reached: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait until something is so."""
        with self._changed:
            assert self._changed.wait_for(lambda: reached() or self.over.is_set(), seconds)

    def forget(self) -> None:
        """Lose all sessions."""
        with self._changed:
            self.sessions.clear()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        method = details.method.removeprefix(f"/{SERVICE}/")
        if method == "Forward":
            return grpc.stream_stream_rpc_method_handler(
                self._forward, pb.ForwardRequest.FromString, lambda each: each.SerializeToString()
            )
        call, read = {"Open": (self._open, pb.OpenRequest), "Close": (self._close, pb.CloseRequest)}[method]
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: _guarded(context, lambda: call(request)),
            read.FromString,
            lambda each: each.SerializeToString(),
        )

    def _open(self, request: Any) -> Any:
        with self._changed:
            self.opened += 1
            number = self.opened
        said = self._opens(self, number) if self._opens else None
        with self._changed:
            if request.key in self.keys and self.keys[request.key] in self.sessions:
                session_id = self.keys[request.key]
            else:
                session_id = self.keys[request.key] = f"{number:032x}"
                self.sessions[session_id] = Held()
            self._changed.notify_all()
        honest = pb.OpenResponse(session_id=session_id, lease_seconds=60, fingerprint=self._terms.fingerprint)
        return said or honest

    def _close(self, request: Any) -> Any:
        with self._changed:
            if self.deaf:
                self.deaf -= 1
                raise Broken
            session_id = request.session_id or self.keys.get(request.key, "")
            self.released.append(session_id)
            self.sessions.pop(session_id, None)
            self._changed.notify_all()
        return pb.CloseResponse()

    def _forward(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        with self._changed:
            self.streams += 1
            self.streams_open += 1
            number = self.streams
        if not context.add_callback(self._stream_ended):  # it is over already
            self._stream_ended()
        try:
            for request in requests:
                with self._changed:
                    self.chunks.append((number, request.session_id, request.seq))
                    self._changed.notify_all()
                answer = _guarded(context, lambda: self._answer(request, number))  # noqa: B023 - called at once
                if answer is not None:
                    yield answer
        except grpc.RpcError:
            return  # the device went away

    def _stream_ended(self) -> None:
        with self._changed:
            self.streams_open -= 1
            self._changed.notify_all()

    def _answer(self, request: Any, stream: int) -> Any:
        said = self._script(self, request, stream) if self._script else None
        if isinstance(said, pb.ForwardResponse):
            return said
        if said is False:
            return None  # and no answer at all
        return self.honest(request)

    def honest(self, request: Any) -> Any:
        """Run a chunk, and hold the device to the contract."""
        with self._changed:
            held = self.sessions.get(request.session_id)
            if held is None:
                raise Refusal(_kind("SessionLostError"), "no such session")
            digest = request.SerializeToString()
            if request.seq <= len(held.asked):
                assert held.asked[request.seq - 1] == digest, "a repeat is another chunk"
                return held.answers[request.seq - 1]
            if request.seq != len(held.asked) + 1:
                raise Refusal(_kind("CloudRejectedError"), f"seq={request.seq} is out of order")
            row = row_bytes(self._terms.hidden, PRECISIONS[request.precision])
            if len(held.states) < request.prefix_length * row:
                raise Refusal(_kind("SessionLostError"), "it does not hold so much")
            assert len(request.states) <= self._terms.max_rows * row, "the chunk is too long"
            held.states = held.states[: request.prefix_length * row] + request.states
            answer = echo(request, self._terms.hidden)
            held.asked.append(digest)
            held.answers.append(answer)
            return answer


def echo(request: Any, hidden: int = HIDDEN, **other: Any) -> Any:
    """The honest answer, but for some fields."""
    row = row_bytes(hidden, PRECISIONS[request.precision])
    fields: dict[str, Any] = {
        "seq": request.seq,
        "states": request.states[len(request.states) - request.returned * row :],
        "queue_ms": 0.0,
        "compute_ms": 0.0,
        "compute_share_ms": 0.0,
        "forward_ms": 1.0,
        "token_ms": 0.1,
        "load": 1,
    }
    return pb.ForwardResponse(**{name: value for name, value in (fields | other).items() if value is not None})


def _kind(name: str) -> Any:
    return next(kind for kind in STATUS if kind.__name__ == name)


def _guarded(context: grpc.ServicerContext, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Refusal as refused:
        pairs = {ERROR_KIND_KEY: refused.kind.__name__} | {k.replace("_", "-"): v for k, v in refused.metadata.items()}
        context.set_trailing_metadata(tuple(pairs.items()))
        context.abort(STATUS[refused.kind], str(refused))
    except Broken:
        context.abort(grpc.StatusCode.UNAVAILABLE, "connection reset")


@contextmanager
def scripted(
    script: Script | None = None, opens: Callable[[Middle, int], Any] | None = None, terms: Terms = TERMS
) -> Iterator[Middle]:
    """Serve on a free port; afterwards no stream is left."""
    middle = Middle(script, opens, terms)
    with ThreadPoolExecutor(12, thread_name_prefix="middle server") as pool:
        longest = ("grpc.max_receive_message_length", 2**25)
        server = grpc.server(pool, handlers=(middle,), options=[longest])
        middle.target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        try:
            yield middle
        finally:
            middle.over.set()
            with middle._changed:
                middle._changed.notify_all()
            server.stop(0).wait()
