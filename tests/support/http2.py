"""A peer that speaks HTTP/2 by hand, and so can do what no gRPC client does: keep its window shut, never reset, reset at once."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from google.protobuf.message import Message

from cloud.server import SERVICE

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
_ACK = _END_STREAM = 1
_END_HEADERS = 4
_INITIAL_WINDOW = 4  # a setting
_REFUSED_STREAM, _CANCEL = 7, 8
_SECONDS = 20.0


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


class Http2:
    """One connection to a server of this machine; calls are numbered 1, 3, 5 and so on. Every wait ends after 20 s."""

    def __init__(
        self, port: int, *, window_bytes: int = 65_535, address: str = "127.0.0.1", answers_pings: bool = True
    ) -> None:
        """Connect.

        Args:
            port: the server's.
            window_bytes: how much of an answer may come before `read_on`.
            address: whom the server sees; any of 127.0.0.0/8.
            answers_pings: whether the server finds it alive.
        """
        self._answers, self._read, self._stream = answers_pings, b"", 1
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS, source_address=(address, 0))
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self._send(SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW, window_bytes))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def call(
        self, method: str, message: Message | bytes, *, timeout: str | None = None, claimed_bytes: int | None = None
    ) -> int:
        """Begin a call, with a message or with the beginning of one that is said to have so many bytes; return its number."""
        named = {":method": "POST", ":scheme": "http", ":path": f"/{SERVICE}/{method}", ":authority": "localhost"}
        named |= {"content-type": "application/grpc", "te": "trailers"} | ({"grpc-timeout": timeout} if timeout else {})
        block = b"".join(b"\0" + _text(key) + _text(value) for key, value in named.items())  # literal, not indexed
        self._send(HEADERS, _END_HEADERS, self._stream, block)
        data = message if isinstance(message, bytes) else message.SerializeToString()
        length = len(data) if claimed_bytes is None else claimed_bytes
        end = _END_STREAM if claimed_bytes is None else 0
        self._send(DATA, end, self._stream, b"\0" + struct.pack(">I", length) + data)
        self._stream += 2
        return self._stream - 2

    def reset(self, number: int) -> None:
        """Cancel a call."""
        self._send(RESET, 0, number, struct.pack(">I", _CANCEL))

    def read_on(self, number: int, window_bytes: int = 1 << 20) -> None:
        """Let so much more of a call's answer come."""
        for of in (number, 0):
            self._send(WINDOW, 0, of, struct.pack(">I", window_bytes))

    def end_of(self, number: int) -> tuple[bytes, bytes]:
        """Read until a call has ended; return the data and the last headers that came, as they came.

        The server's headers are readable in the first such block of a connection only: later ones may refer to it.
        """
        data = b""
        for each in self._frames():
            if each.stream != number or each.kind not in (HEADERS, DATA, RESET):
                continue
            data += each.payload if each.kind == DATA else b""
            if each.kind == RESET or each.flags & _END_STREAM:
                return data, each.payload
        raise AssertionError("the server ended the connection")

    def ping(self) -> None:
        self._send(PING, 0, 0, b"12345678")

    def pong_within(self, pause_seconds: float) -> bool:
        """Ping, and whether that is answered; then pause."""
        self.ping()
        answered = any(each.kind == PING and each.flags & _ACK for each in self._until(PING))
        time.sleep(pause_seconds)
        return answered

    def settings(self) -> dict[int, int]:
        """The server's, by their numbers."""
        first = next(each for each in self._frames() if each.kind == SETTINGS and not each.flags & _ACK)
        return dict(struct.unpack_from(">HI", first.payload, at) for at in range(0, len(first.payload), 6))

    def goaway(self) -> bytes:
        """Why the server ends the connection."""
        return next(each.payload for each in self._frames() if each.kind == GOAWAY)

    def refused_stream(self) -> int:
        """The call that the server refused to begin."""
        return next(e.stream for e in self._frames() if e.kind == RESET and e.payload == struct.pack(">I", _REFUSED_STREAM))

    def trailers(self) -> bool:
        """Whether the call is answered or refused."""
        return any(each.kind in (HEADERS, RESET) and each.stream for each in self._until(HEADERS, RESET))

    def closed(self) -> bool:
        """Whether the server ends the connection."""
        for _ in self._frames():
            pass
        return True

    def _until(self, *kinds: int) -> Iterator[Frame]:
        for each in self._frames():
            yield each
            if each.kind in kinds and (each.kind != PING or each.flags & _ACK):
                return

    def _frames(self) -> Iterator[Frame]:
        """What comes, until the connection is closed.

        Raises:
            TimeoutError: nothing came for a long time.
        """
        while True:
            while len(self._read) >= 9 and len(self._read) >= 9 + (size := int.from_bytes(self._read[:3], "big")):
                kind, flags, stream = self._read[3], self._read[4], int.from_bytes(self._read[5:9], "big")
                frame = Frame(kind, flags, stream, self._read[9 : 9 + size])
                self._read = self._read[9 + size :]
                self._acknowledge(frame)
                yield frame
            try:
                more = self._socket.recv(65536)
            except ConnectionError:
                return
            if not more:
                return
            self._read += more

    def _acknowledge(self, frame: Frame) -> None:
        if frame.flags & _ACK or frame.kind not in (SETTINGS, PING) or (frame.kind == PING and not self._answers):
            return
        self._send(frame.kind, _ACK, 0, frame.payload if frame.kind == PING else b"")

    def _send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        head = struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream)
        with contextlib.suppress(ConnectionError):  # what came before is still there to be read
            self._socket.sendall(head + payload)


def has(headers: bytes, name: str, value: str) -> bool:
    """Whether a block of headers holds a pair, spelled out."""
    return _text(name) + _text(value) in headers


def _text(text: str) -> bytes:
    assert len(text) < 127
    return bytes([len(text)]) + text.encode()
