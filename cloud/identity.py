"""Who a request comes from: whose sessions are whose, and whom work is charged to.

What does not live here: how a client proves who it is (security.py, tokens.py, authentication.py) and what it may have.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

import grpc

from runtime.errors import UnauthenticatedError

LONGEST_NAME = 128
"""Characters of a client's name."""
named_by_token: ContextVar[str | None] = ContextVar("named_by_token", default=None)
"""Whose token came with the call under way; each call is a task, and so has its own."""


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
    """Return who made a call.

    Raises:
        UnauthenticatedError: the certificate names nobody; no call comes as far that authentication.py looked at.
    """
    name = certified_name(context) or named_by_token.get()
    if name is not None:
        return Client(name, name)
    connection = context.peer()  # ipv4:127.0.0.1:40000, ipv6:%5B::1%5D:40000
    return Client(connection.rpartition(":")[0], connection)


def certified_name(context: grpc.aio.ServicerContext) -> str | None:
    """Return the name in the certificate of who calls: its common name, or where it has none its first alternative name.

    gRPC verified the certificate when the connection was made: a server asks for one only if it knows the authority.

    Returns:
        The name; None if there is no certificate.

    Raises:
        UnauthenticatedError: there is no name in it, or none that can be told.
    """
    proven = context.auth_context()
    if not proven.get("x509_pem_cert"):
        return None
    names = (*proven.get("x509_common_name", ()), *proven.get("x509_subject_alternative_name", ()))
    name = next((each.decode(errors="replace") for each in names if each), "")
    if not is_name(name):
        raise UnauthenticatedError(
            f"the client's certificate names nobody; it needs a common name of 1..{LONGEST_NAME} printable characters"
        )
    return name


def is_name(name: str) -> bool:
    """Whether a client may be called so: nothing that breaks a line or acts on a terminal, and not too long."""
    return 1 <= len(name) <= LONGEST_NAME and name.isprintable() and not name.isspace()
