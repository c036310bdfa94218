"""A peer of the verifier that keeps to no rules: the bare stub, and what it is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc

from runtime.wire import ERROR_KIND_KEY, synera_pb2_grpc
from runtime.wire import synera_pb2 as pb

SECONDS = 30
"""Deadline of every call."""


@dataclass(frozen=True)
class Refusal:
    """A status that is not OK."""

    code: grpc.StatusCode
    details: str
    kind: str | None
    """Class of the error, by the verifier's own word; None when gRPC speaks, or of a bug."""


@contextmanager
def channel_to(port: int, *options: tuple[str, Any]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0), *options]) as channel:
        yield channel


def answer(call: Callable[..., Any], request: Any, **options: Any) -> Any:
    """The message that a call gives (of a stream the list of them), or its refusal. Where requests are streamed, there is one."""
    try:
        if isinstance(call, grpc.StreamStreamMultiCallable):
            return list(call(iter([request]), timeout=SECONDS, **options))
        got = call(request, timeout=SECONDS, **options)
        return list(got) if isinstance(call, grpc.UnaryStreamMultiCallable) else got
    except grpc.RpcError as failed:
        told: Any = failed
        kind = dict(told.trailing_metadata() or ()).get(ERROR_KIND_KEY)
        return Refusal(told.code(), told.details(), kind)


def refused(call: Callable[..., Any], request: Any, **options: Any) -> Refusal:
    """The refusal that a call must get."""
    got = answer(call, request, **options)
    assert isinstance(got, Refusal), got
    return got


def poll(condition: Callable[[], object]) -> None:
    """Wait until something has become true."""
    for _ in range(1500):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it never became true")


class Honest:
    """A device that keeps to the rules, one session long; its drafts are empty."""

    def __init__(self, stub: synera_pb2_grpc.SyneraStub, tokenizer_hash: str, prompt: list[int]) -> None:
        self._stub, self.tokens, self._seq = stub, list(prompt), 0
        self._prompt = len(prompt)
        self.session_id = stub.Open(pb.OpenRequest(tokenizer_hash=tokenizer_hash), timeout=SECONDS).session_id

    def step(self) -> int:
        """The next token of its answer."""
        held = len(self.tokens) if self._seq else 0
        self._seq += 1
        request = pb.VerifyRequest(session_id=self.session_id, seq=self._seq, prefix_length=held, context=self.tokens[held:])
        self.tokens.append(self._stub.Verify(request, timeout=SECONDS).next_token)
        return self.tokens[-1]

    @property
    def answer(self) -> list[int]:
        return self.tokens[self._prompt :]

    def close(self) -> None:
        self._stub.Close(pb.CloseRequest(session_id=self.session_id), timeout=SECONDS)
