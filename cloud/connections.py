"""Connections and messages that gRPC itself keeps out or ends, before anything reaches a handler.

What does not live here: who may make a connection (security.py), and what a request that came in may cost.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass, fields

from runtime.settings import whole, within

METADATA_BYTES = 4096
"""Of a request's headers, its token included; an honest device sends about 300, and a token of ours adds 70."""
_IDENTITY_ONLY = 1  # bits of the compressions that are taken: a small message must not unpack to a large one
_LEAST_WINDOW = 65_535  # bytes, as HTTP/2 begins with
_PREFIX_BYTES = 5  # of a message
_OTHER_FILES = 128  # descriptors that are no connection's: models, logs, the event loop, a metrics server


@dataclass(frozen=True)
class Connections:
    """How long a connection may live, and how many there may be.

    A device whose idle or aged connection was ended makes another at its next call, and its session goes on: sessions belong to
    clients, not to connections. Only anonymous clients' limits are counted by connection.

    Raises:
        SettingError: a setting is outside its range.
    """

    most: int = 4096
    """Connections at a time, 1..1000000; further ones are closed as they come. Less where the process may open fewer files."""
    streams: int = 128
    """Calls under way on one connection, 1..100000; a client's further ones wait on its side."""
    handshake_seconds: float = 10.0
    """Until a connection speaks HTTP/2, TLS included, 0.1..600."""
    idle_seconds: float = 300.0
    """Without a call, 0.1..86400."""
    age_seconds: float = 3600.0
    """After this, give or take a tenth, a connection takes no further calls, 0.1..604800: who was let in must prove itself anew,
    and devices spread over new replicas."""
    age_grace_seconds: float = 330.0
    """How long calls under way may then still take, 0.1..3600; longer than an honest device's longest stream (300 s)."""
    ping_seconds: float = 30.0
    """Where calls are under way and nothing comes, the peer is pinged, 1..3600; an idle one is not, for its radio's sake."""
    ping_timeout_seconds: float = 20.0
    """A peer that does not answer a ping for so long is dead, 0.1..600."""
    least_ping_seconds: float = 5.0
    """Between pings of an honest client, 0.1..300; one that pings more often is sent away."""

    def __post_init__(self) -> None:
        whole("most", self.most, 1, 1_000_000)
        whole("streams", self.streams, 1, 100_000)
        for name, (low, high) in _RANGES.items():
            within(name, getattr(self, name), low, high)

    def options(self, most_message_bytes: int) -> tuple[tuple[str, int], ...]:
        """Return the options of a gRPC server.

        Args:
            most_message_bytes: of a request.
        """
        return (
            # Without this a second server on a taken port would quietly share it.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", most_message_bytes),
            # What a peer may send before anybody reads it: one request, not the 4 MiB that gRPC would let it, and never more.
            ("grpc.http2.lookahead_bytes", max(_LEAST_WINDOW, most_message_bytes + _PREFIX_BYTES)),
            ("grpc.http2.bdp_probe", 0),
            ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
            # The first alone would only make a refusal likely; the other is the one that always holds.
            ("grpc.max_metadata_size", METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", METADATA_BYTES),
            ("grpc.max_allowed_incoming_connections", max(1, min(self.most, open_files() - _OTHER_FILES))),
            ("grpc.max_concurrent_streams", self.streams),
            ("grpc.server_handshake_timeout_ms", _ms(self.handshake_seconds)),
            ("grpc.max_connection_idle_ms", _ms(self.idle_seconds)),
            ("grpc.max_connection_age_ms", _ms(self.age_seconds)),
            ("grpc.max_connection_age_grace_ms", _ms(self.age_grace_seconds)),
            ("grpc.keepalive_time_ms", _ms(self.ping_seconds)),
            ("grpc.keepalive_timeout_ms", _ms(self.ping_timeout_seconds)),
            (
                "grpc.http2.ping_timeout_ms",
                _ms(self.ping_timeout_seconds),
            ),  # of pings for other ends, as it sends one at a time
            ("grpc.keepalive_permit_without_calls", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", _ms(self.least_ping_seconds)),
        )


_RANGES = {
    "handshake_seconds": (0.1, 600),
    "idle_seconds": (0.1, 86_400),
    "age_seconds": (0.1, 604_800),
    "age_grace_seconds": (0.1, 3600),
    "ping_seconds": (1, 3600),
    "ping_timeout_seconds": (0.1, 600),
    "least_ping_seconds": (0.1, 300),
}
assert {each.name for each in fields(Connections)} == {"most", "streams", *_RANGES}


def open_files() -> int:
    """Return how many files, connections included, this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if soft == resource.RLIM_INFINITY else soft


def raise_open_files() -> int:
    """Let this process open as many files as the system allows it; return how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return open_files()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
