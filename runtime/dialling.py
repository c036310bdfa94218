"""From what a user calls the cloud to the clients of its replicas: a list of addresses, and names of several addresses.

What does not live here: what an address is (wire/address.py), the calls (client.py), which replica is turned to (synera/replicas.py).
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from runtime.client import CloudClient, Deadlines
from runtime.credentials import Credentials
from runtime.wire.address import Address


@contextmanager
def dialled(
    targets: str,
    *,
    credentials: Credentials | None = None,
    allow_plaintext: bool = False,
    deadlines: Deadlines | None = None,
) -> Iterator[tuple[CloudClient, ...]]:
    """Prepare a client for each replica, and close them in the end; no verifier is asked for anything yet.

    Args:
        targets: `HOST:PORT,HOST:PORT,...`. A name that has several addresses of one family (such as that of a headless service of
            Kubernetes) stands for a replica at each; they are looked up once, here.
        credentials: for all of them; the certificates of those that one name stands for must be of that name.
        allow_plaintext: see :class:`runtime.client.CloudClient`.
        deadlines: for each call.

    Raises:
        SettingError: one is no address, or is named twice, or a file of the credentials cannot be used.
        PlaintextRefusedError: plaintext to a host that is not loopback.
        OSError: a file of the credentials cannot be read.
    """
    with ExitStack() as stack:
        clients: dict[str, CloudClient] = {}
        for address in Address.parse_all(targets):
            whole = CloudClient(
                str(address), credentials=credentials, allow_plaintext=allow_plaintext, deadlines=deadlines
            )  # refuses what may not be dialled before anything is looked up
            stack.callback(whole.close)
            for each in (several := addresses_of(address)):
                clients[str(each)] = stack.enter_context(
                    CloudClient(
                        str(each),
                        credentials=credentials,
                        allow_plaintext=allow_plaintext,
                        deadlines=deadlines,
                        certified=address.host,
                    )
                )
            if not several:
                clients[whole.target] = whole
        yield tuple(clients.values())


def addresses_of(address: Address) -> tuple[Address, ...]:
    """Look a name up: its addresses where it has several of one family, of IPv4 where of both; otherwise none, as then gRPC finds the
    way. So `localhost`, which has one of each, is one verifier.
    """
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        pass
    else:
        return ()
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            found = socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM)
        except OSError:  # nobody knows it, or not now
            continue
        hosts = {str(ipaddress.ip_address(str(each[4][0]).partition("%")[0])) for each in found}
        if len(hosts) > 1:
            return tuple(Address(host, address.port) for host in sorted(hosts))
    return ()
