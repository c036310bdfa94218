"""A peer that speaks just enough HTTP/2 to do what no gRPC client does: keep its window shut, never reset, reset at once."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from google.protobuf.message import Message

from cloud.server import SERVICE

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _WINDOW = 0, 1, 3, 4, 6, 8
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1
_CANCEL = 8
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


class Peer:
    """One connection; calls are numbered 1, 3, 5 and so on."""

    def __init__(self, connection: socket.socket, window_bytes: int) -> None:
        self._connection, self._next, self._rest = connection, 1, b""
        settings = struct.pack(">HI", 4, window_bytes)  # SETTINGS_INITIAL_WINDOW_SIZE: of each call's answer
        connection.sendall(_PREFACE + _frame(_SETTINGS, 0, 0, settings))

    def call(self, method: str, request: Message, *, timeout: str | None = None) -> int:
        """Send a request; return the number of the call."""
        number, self._next = self._next, self._next + 2
        headers = {":method": "POST", ":scheme": "http", ":path": f"/{SERVICE}/{method}", ":authority": "raw"}
        headers |= {"content-type": "application/grpc", "te": "trailers"} | ({"grpc-timeout": timeout} if timeout else {})
        data = request.SerializeToString()
        block = b"".join(b"\0" + _text(name) + _text(value) for name, value in headers.items())
        self._connection.sendall(
            _frame(_HEADERS, _END_HEADERS, number, block)
            + _frame(_DATA, _END_STREAM, number, b"\0" + struct.pack(">I", len(data)) + data)
        )
        return number

    def reset(self, number: int) -> None:
        """Cancel a call."""
        self._connection.sendall(_frame(_RESET, 0, number, struct.pack(">I", _CANCEL)))

    def read_on(self, number: int, window_bytes: int = 1 << 20) -> None:
        """Let so much more of a call's answer come."""
        more = struct.pack(">I", window_bytes)
        self._connection.sendall(_frame(_WINDOW, 0, number, more) + _frame(_WINDOW, 0, 0, more))

    def end_of(self, number: int) -> tuple[bytes, bytes]:
        """Read until a call has ended; return the data and the last headers that came, as they came.

        The server's headers are readable in the first such block of a connection only: later ones may refer to it.
        """
        data = b""
        while True:
            kind, flags, of, payload = self._frame()
            if kind == _PING and not flags & _ACK:
                self._connection.sendall(_frame(_PING, _ACK, 0, payload))
            if of == number and kind == _DATA:
                data += payload
            if of == number and kind in (_HEADERS, _DATA, _RESET) and (flags & _END_STREAM or kind == _RESET):
                return data, payload

    def _frame(self) -> tuple[int, int, int, bytes]:
        head = self._exactly(9)
        return head[3], head[4], struct.unpack(">I", head[5:])[0], self._exactly(int.from_bytes(head[:3], "big"))

    def _exactly(self, count: int) -> bytes:
        while len(self._rest) < count:
            more = self._connection.recv(65536)
            assert more, "the server ended the connection"
            self._rest += more
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken


@contextmanager
def peer(port: int, *, window_bytes: int = 65_535, address: str = "127.0.0.1") -> Iterator[Peer]:
    """Connect to a server of this machine.

    Args:
        port: the server's.
        window_bytes: how much of an answer may come before `read_on`.
        address: whom the server sees; any of 127.0.0.0/8.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(address, 0)) as connection:
        yield Peer(connection, window_bytes)


def has(headers: bytes, name: str, value: str) -> bool:
    """Whether a block of headers holds a pair, spelled out."""
    return _text(name) + _text(value) in headers


def _frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", number) + payload


def _text(text: str) -> bytes:
    assert len(text) < 127
    return bytes([len(text)]) + text.encode()
