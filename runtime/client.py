"""The device's side of the wire: one channel, one call with deadline and retries, one map from status to exception.

What does not live here: the session that a device keeps over it, and its healing (synera/verifier.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc

from runtime import errors
from runtime.errors import CloudError, CloudRejectedError, CloudUnavailableError, SettingError, SyneraError
from runtime.wire import ERROR_KIND_KEY, synera_pb2_grpc
from runtime.wire import synera_pb2 as pb
from runtime.wire.address import check_plaintext, host_of

_RETRIES = 3
_RETRY_SECONDS = 0.1
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 250),  # below what the retries of a call wait in all
)


@dataclass(frozen=True)
class Deadlines:
    """How long a call may take, retries included, in seconds; past it the cloud counts as unavailable."""

    info_seconds: float = 5.0
    open_seconds: float = 5.0
    verify_seconds: float = 30.0
    close_seconds: float = 1.0
    generate_seconds: float = 300.0
    """For the whole stream."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if not getattr(self, each.name) > 0:
                raise SettingError(f"{each.name}={getattr(self, each.name)} must be above 0")


@dataclass(frozen=True)
class ModelInfo:
    """What the cloud serves; the wire's ModelInfoResponse."""

    model: str
    architecture: str
    fingerprint: str
    tokenizer_hash: str
    context_tokens: int
    max_draft_tokens: int
    eos_ids: tuple[int, ...]
    vocab: int
    engine: str
    paced: bool


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One token of the cloud-only baseline."""

    token: int
    queue_seconds: float
    compute_seconds: float
    """Duration of its batch's forward."""


class CloudClient:
    """A channel to one verifier; threads may share it."""

    def __init__(
        self, target: str, *, tls_ca: Path | None = None, allow_plaintext: bool = False, deadlines: Deadlines | None = None
    ) -> None:
        """Prepare the channel; nothing is sent yet.

        Args:
            target: `host:port`.
            tls_ca: PEM file of the authority that signed the cloud's certificate; None is plaintext.
            allow_plaintext: accept plaintext to another machine.
            deadlines: for each call.

        Raises:
            SettingError: `target` has no port.
            PlaintextRefusedError: plaintext to a host that is not loopback.
            FileNotFoundError: there is no `tls_ca`.
        """
        self.target, self.deadlines = target, deadlines or Deadlines()
        way_out = "give tls_ca, or set allow_plaintext if the network is trusted"
        check_plaintext(host_of(target), encrypted=tls_ca is not None, allow_plaintext=allow_plaintext, way_out=way_out)
        if tls_ca is None:
            self._channel = grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(tls_ca.read_bytes())
            self._channel = grpc.secure_channel(target, credentials, options=_CHANNEL_OPTIONS)
        self._stub = synera_pb2_grpc.SyneraStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; calls in flight fail as unavailable."""
        self._channel.close()

    def model_info(self) -> ModelInfo:
        """Ask what is served.

        Raises:
            CloudError: no answer.
        """
        answer = self._call(self._stub.ModelInfo, pb.ModelInfoRequest(), self.deadlines.info_seconds)
        stated = {each.name: getattr(answer, each.name) for each in fields(ModelInfo)}
        return ModelInfo(**(stated | {"eos_ids": tuple(answer.eos_ids)}))

    def open(self, tokenizer_hash: str) -> str:
        """Start a session and return its id.

        Raises:
            TokenizerMismatchError: the cloud's model has another tokenizer.
            CloudError: no session.
        """
        request = pb.OpenRequest(tokenizer_hash=tokenizer_hash)
        # Repeating an open is safe: a session whose id got lost on the way expires by its lease.
        return self._call(self._stub.Open, request, self.deadlines.open_seconds).session_id

    def verify(self, request: pb.VerifyRequest) -> pb.VerifyResponse:
        """Have a draft checked; safe to repeat by (session_id, seq).

        Raises:
            CloudError: no verdict; SessionLostError asks for a new session.
        """
        return self._call(self._stub.Verify, request, self.deadlines.verify_seconds)

    def close_session(self, session_id: str) -> None:
        """Release a session.

        Raises:
            CloudError: no answer; its lease will release it.
        """
        self._call(self._stub.Close, pb.CloseRequest(session_id=session_id), self.deadlines.close_seconds, retries=0)

    def generate(self, prompt: Sequence[int], max_new_tokens: int) -> Iterator[GeneratedToken]:
        """Greedy tokens of the LLM alone, as they come; closing the iterator cancels the rest.

        Raises:
            CloudError: the stream could not start or broke.
        """
        request = pb.GenerateRequest(prompt=prompt, max_new_tokens=max_new_tokens)
        call = self._stub.Generate(request, timeout=self.deadlines.generate_seconds)
        try:
            for each in call:
                yield GeneratedToken(each.token, each.queue_ms / 1e3, each.compute_ms / 1e3)
        except grpc.RpcError as failed:
            raise self._error(failed) from None
        finally:
            call.cancel()

    def _call(self, method: Callable[..., Any], request: Any, deadline_seconds: float, retries: int = _RETRIES) -> Any:
        """One call: deadline, retries while the cloud is unavailable, status to exception."""
        ends = time.monotonic() + deadline_seconds
        for attempt in range(retries + 1):
            try:
                return method(request, timeout=max(0.001, ends - time.monotonic()))
            except grpc.RpcError as failed:
                wait = _RETRY_SECONDS * 2**attempt
                last = attempt == retries or time.monotonic() + wait >= ends
                if last or failed.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise self._error(failed) from None
                time.sleep(wait)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _error(self, failed: Any) -> SyneraError:
        """The exception that a status stands for: by the cloud's own word, else by the status gRPC itself gave."""
        kind = dict(failed.trailing_metadata() or ()).get(ERROR_KIND_KEY)
        named = getattr(errors, str(kind), None)
        if isinstance(named, type) and issubclass(named, SyneraError):
            return named(failed.details())
        code, details = failed.code(), failed.details()
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            return CloudUnavailableError(
                f"no verifier answers at {self.target} ({details}); check the address, or start one with: synera serve"
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return CloudUnavailableError(
                f"the verifier at {self.target} did not answer in time; it may be overloaded or stopped, or allow a longer deadline"
            )
        if code in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.RESOURCE_EXHAUSTED):
            return CloudRejectedError(
                f"{self.target} does not take this request ({code.name}: {details}); is it a verifier of this version?"
            )
        return CloudError(f"the verifier at {self.target} failed ({code.name}: {details}); its log says more")
