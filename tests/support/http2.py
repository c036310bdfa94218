"""A peer that speaks HTTP/2 by hand, and so can do what no gRPC client does."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
_ACK = 1
_END_HEADERS = 4
_REFUSED_STREAM = 7
_SECONDS = 20.0


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


class Http2:
    """One connection; every wait ends after 20 s."""

    def __init__(self, port: int, *, answers_pings: bool = True) -> None:
        self._answers, self._read, self._stream = answers_pings, b"", 1
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_SECONDS)
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self._send(SETTINGS, 0, 0, b"")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def ask(self, method: str, message: bytes, claimed_bytes: int | None = None) -> int:
        """Begin a call, with a message or with the beginning of one that is said to have so many bytes; return its number."""
        named = {
            ":method": "POST",
            ":scheme": "http",
            ":path": f"/synera.v1.Synera/{method}",
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        }
        block = b"".join(b"\0" + _text(key) + _text(value) for key, value in named.items())  # literal, not indexed
        self._send(HEADERS, _END_HEADERS, self._stream, block)
        length = len(message) if claimed_bytes is None else claimed_bytes
        self._send(DATA, claimed_bytes is None, self._stream, b"\0" + struct.pack(">I", length) + message)
        self._stream += 2
        return self._stream - 2

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


def _text(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()
