"""The gRPC channels of a client: how they are made, that they never trace what cannot be read, and which of them is used.

What does not live here: calls (client.py), and what a device shows of itself (credentials.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from runtime.errors import BadAnswerError
from runtime.wire import synera_pb2_grpc

_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 250),  # below what the retries of a call wait in all
    # Neither http_proxy and its kin nor GRPC_ADDRESS_HTTP_PROXY may take a call elsewhere than to its address.
    ("grpc.enable_http_proxy", 0),
    ("grpc.address_http_proxy_enabled_addresses", ""),
    # No compression either way, so that what is small on the wire is small in memory.
    ("grpc.compression_enabled_algorithms_bitset", 1),
    ("grpc.per_message_decompression", 0),
    ("grpc.use_local_subchannel_pool", 1),  # or the two channels of a client would share one connection
)
_LONGEST_ANSWER = 64 * 1024  # bytes; a legal one of a verifier of tokens has less than 16 KiB


class Channels:
    """Two channels to one verifier. Thread-safe.

    The second is made when a request is first repeated: on the channel of the first copy a repeat would queue behind what TCP is
    still trying to get through.
    """

    def __init__(self, uri: str, credentials: grpc.ChannelCredentials | None, certified: str | None = None) -> None:
        """Make the first; nothing is sent yet.

        Args:
            uri: as gRPC takes it.
            credentials: None is plaintext.
            certified: the name that the verifier's certificate must be of; None is the host.
        """
        self._uri, self._credentials, self._options = uri, credentials, _OPTIONS
        if certified is not None and credentials is not None:
            self._options += (("grpc.ssl_target_name_override", certified), ("grpc.default_authority", certified))
        self._lock = threading.Lock()
        self._made: list[tuple[grpc.Channel, Any]] = []
        self._retired: list[grpc.Channel] = []
        self._longest_answer = _LONGEST_ANSWER
        self.closed = False
        self.preferred = 0
        """Number of the one that is used first: that which was answered last."""
        self.stub(0)

    def stub(self, number: int) -> Any:
        """What makes calls on a channel, 0 or 1; once they are closed, its calls raise a ValueError.

        Raises:
            ValueError: they are closed, and this one was never made.
        """
        with self._lock:
            while len(self._made) <= number:
                if self.closed:
                    raise ValueError("the channels are closed")
                channel = self._make()
                self._made.append((channel, synera_pb2_grpc.SyneraStub(_Careful(channel))))
            return self._made[number][1]

    def widen(self, longest_answer_bytes: int) -> None:
        """Take answers up to this size: over other channels from now on, where those there are take less. Calls under way go on.

        Raises:
            ValueError: they are closed.
        """
        with self._lock:
            if self.closed:
                raise ValueError("the channels are closed")
            if longest_answer_bytes > self._longest_answer:
                self._longest_answer = longest_answer_bytes
                self._retired += [channel for channel, _ in self._made]
                self._made = []

    def close(self) -> None:
        """End all calls, and take no more."""
        with self._lock:
            self.closed = True
        for channel in (*self._retired, *(channel for channel, _ in self._made)):
            channel.close()

    def _make(self) -> grpc.Channel:
        options = (*self._options, ("grpc.max_receive_message_length", self._longest_answer))
        if self._credentials is None:
            return grpc.insecure_channel(self._uri, options=options)
        return grpc.secure_channel(self._uri, self._credentials, options=options)


class _Careful:
    """A channel whose unreadable answers come back as errors; gRPC would log a trace for each."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def unary_unary(self, method: str, *, response_deserializer: Callable[[bytes], Any], **named: Any) -> Any:
        return self._channel.unary_unary(method, response_deserializer=_careful(response_deserializer), **named)

    def unary_stream(self, method: str, *, response_deserializer: Callable[[bytes], Any], **named: Any) -> Any:
        return self._channel.unary_stream(method, response_deserializer=_careful(response_deserializer), **named)

    def stream_stream(self, method: str, *, response_deserializer: Callable[[bytes], Any], **named: Any) -> Any:
        return self._channel.stream_stream(method, response_deserializer=_careful(response_deserializer), **named)


def _careful(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(message: bytes) -> Any:
        try:
            return parse(message)
        except DecodeError:
            return BadAnswerError(
                f"the verifier's answer of {len(message)} bytes cannot be read; is it a verifier of this version?"
            )

    return read
