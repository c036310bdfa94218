"""The device's side of the wire: one channel, one call with deadline and retries, one map from status to exception.

What does not live here: which answers are believed (answers.py), and the session over it with its healing (synera/verifier.py).
"""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.message import DecodeError

from runtime.answers import GeneratedToken, ModelInfo, Opened, read_generated, read_model_info, read_opened
from runtime.errors import (
    BadAnswerError,
    CloudError,
    CloudRejectedError,
    CloudUnavailableError,
    SettingError,
    SyneraError,
)
from runtime.settings import plain, shown, within
from runtime.wire import ERROR_KIND_KEY, synera_pb2_grpc
from runtime.wire import synera_pb2 as pb
from runtime.wire.address import Address, check_plaintext
from runtime.wire.sizes import KEY_CHARACTERS
from runtime.wire.statuses import STATUS

_NAMED = {kind.__name__: (kind, status) for kind, status in STATUS.items()}
_RETRIES = 3
_RETRY_SECONDS = 0.1
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 250),  # below what the retries of a call wait in all
    # Neither http_proxy and its kin nor GRPC_ADDRESS_HTTP_PROXY may take a call elsewhere than to its address.
    ("grpc.enable_http_proxy", 0),
    ("grpc.address_http_proxy_enabled_addresses", ""),
    ("grpc.max_receive_message_length", 64 * 1024),  # a legal answer has less than 16 KiB
    # No compression either way, so that what is small on the wire is small in memory.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.per_message_decompression", 0),
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
            within(each.name, getattr(self, each.name), 0.001, 86_400.0)


def new_key() -> str:
    """Draw the key of an Open, by which a repeat gets the same session."""
    return secrets.token_hex(KEY_CHARACTERS // 2)


def _authority(path: Path) -> bytes:
    """Read the certificate of an authority.

    Raises:
        SettingError: the file holds none; gRPC would only fail to connect.
    """
    content = path.read_bytes()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise SettingError(
            f"tls_ca={shown(str(path), 200)} holds no certificate ({plain(str(error))}); give the PEM file of the authority"
        ) from None
    return content


class CloudClient:
    """A channel to one verifier; threads may share it."""

    def __init__(
        self, target: str, *, tls_ca: Path | None = None, allow_plaintext: bool = False, deadlines: Deadlines | None = None
    ) -> None:
        """Prepare the channel; nothing is sent yet.

        Args:
            target: `host:port`, as :meth:`Address.parse` takes it.
            tls_ca: PEM file of the authority that signed the cloud's certificate; None is plaintext.
            allow_plaintext: accept plaintext to another machine.
            deadlines: for each call.

        Raises:
            SettingError: `target` is no such address, or `tls_ca` holds no certificate.
            PlaintextRefusedError: plaintext to a host that is not loopback.
            FileNotFoundError: there is no `tls_ca`; another OSError that it cannot be read.
        """
        address, self.deadlines = Address.parse(target), deadlines or Deadlines()
        self.target = str(address)
        way_out = "give tls_ca, or set allow_plaintext if the network is trusted"
        check_plaintext(address.host, encrypted=tls_ca is not None, allow_plaintext=allow_plaintext, way_out=way_out)
        if tls_ca is None:
            self._channel = grpc.insecure_channel(address.uri, options=_CHANNEL_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(_authority(tls_ca))
            self._channel = grpc.secure_channel(address.uri, credentials, options=_CHANNEL_OPTIONS)
        self._stub = synera_pb2_grpc.SyneraStub(_Careful(self._channel))
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel; calls in flight and later ones fail as unavailable."""
        self._closed = True
        self._channel.close()

    def model_info(self) -> ModelInfo:
        """Ask what is served.

        Raises:
            CloudError: no answer, or one that makes no sense.
        """
        return read_model_info(self._call(self._stub.ModelInfo, pb.ModelInfoRequest(), self.deadlines.info_seconds))

    def open(self, tokenizer_hash: str) -> Opened:
        """Start a session; return its id and the fingerprint of the model that serves it.

        Raises:
            TokenizerMismatchError: the cloud's model has another tokenizer.
            CloudError: no session.
        """
        request = pb.OpenRequest(tokenizer_hash=tokenizer_hash, key=new_key())
        return read_opened(self._call(self._stub.Open, request, self.deadlines.open_seconds))

    def verify(self, request: pb.VerifyRequest) -> pb.VerifyResponse:
        """Have a draft checked; safe to repeat by (session_id, seq). The answer is as it came: see :func:`answers.read_checked`.

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
            CloudError: the stream could not start, broke, or makes no sense.
        """
        request, longest = pb.GenerateRequest(prompt=prompt, max_new_tokens=max_new_tokens), self.deadlines.generate_seconds
        call = self._attempt(self._stub.Generate, request, longest)
        try:
            for count, answer in enumerate(call, 1):
                if isinstance(answer, BadAnswerError):
                    raise answer
                if count > max_new_tokens:
                    raise BadAnswerError(f"the verifier streams more than the {max_new_tokens} tokens that were asked for")
                yield read_generated(answer, longest)
        except grpc.RpcError as failed:
            raise self._error(failed) from None
        finally:
            call.cancel()

    def _call(self, method: Callable[..., Any], request: Any, deadline_seconds: float, retries: int = _RETRIES) -> Any:
        """One call: deadline, retries while the cloud is unavailable, status to exception."""
        ends = time.monotonic() + deadline_seconds
        for attempt in range(retries + 1):
            try:
                answer = self._attempt(method, request, max(0.001, ends - time.monotonic()))
            except grpc.RpcError as failed:
                wait = _RETRY_SECONDS * 2**attempt
                last = attempt == retries or time.monotonic() + wait >= ends
                if last or failed.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise self._error(failed) from None
                time.sleep(wait)
            else:
                if isinstance(answer, BadAnswerError):
                    raise answer
                return answer
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _attempt(self, method: Callable[..., Any], request: Any, timeout: float) -> Any:
        try:
            return method(request, timeout=timeout)
        except ValueError:  # how gRPC refuses a closed channel
            if not self._closed:
                raise
            raise CloudUnavailableError(f"the channel to {self.target} was closed") from None

    def _error(self, failed: Any) -> SyneraError:
        """The exception that a status stands for: by the cloud's own word where that fits, else by the status alone."""
        code, details = failed.code(), plain(failed.details() or "")
        kind, status = _NAMED.get(str(dict(failed.trailing_metadata() or ()).get(ERROR_KIND_KEY)), (None, None))
        if kind is not None and status is code:
            return kind(details)
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


class _Careful:
    """A channel whose unreadable answers come back as errors; gRPC would log a trace for each."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def unary_unary(self, method: str, *, response_deserializer: Callable[[bytes], Any], **named: Any) -> Any:
        return self._channel.unary_unary(method, response_deserializer=_careful(response_deserializer), **named)

    def unary_stream(self, method: str, *, response_deserializer: Callable[[bytes], Any], **named: Any) -> Any:
        return self._channel.unary_stream(method, response_deserializer=_careful(response_deserializer), **named)


def _careful(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(message: bytes) -> Any:
        try:
            return parse(message)
        except DecodeError:
            return BadAnswerError(
                f"the verifier's answer of {len(message)} bytes cannot be read; is it a verifier of this version?"
            )

    return read
