"""Who a request comes from: whose sessions are whose, and whom work is charged to.

What does not live here: how a client proves who it is (security.py) and what it may have (admission.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks."""

    name: str
    """Sessions belong to it, and to nobody of another name: that of a certificate or of a token; of others their IP address."""
    account: str
    """Whom work and limits are charged to: the name; of others the connection, as many may share an address."""


NOBODY = Client("", "")
"""Who calls without a network in between."""


def client_of(context: grpc.aio.ServicerContext) -> Client:
    """Return who made a call."""
    connection = context.peer()  # ipv4:127.0.0.1:40000, ipv6:%5B::1%5D:40000
    return Client(connection.rpartition(":")[0], connection)
