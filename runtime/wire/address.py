"""Addresses of the verifier and the rule that plaintext stays on one machine.

What does not live here: certificates (cloud/security.py, runtime/client.py).
"""

from __future__ import annotations

import ipaddress

from runtime.errors import SettingError, SyneraError


class PlaintextRefusedError(SyneraError):
    """Token ids would cross a network unencrypted, and nobody said that this is wanted."""


def host_of(target: str) -> str:
    """Host of a `host:port` or `[ipv6]:port` target.

    Raises:
        SettingError: it has no port.
    """
    host, colon, port = target.rpartition(":")
    if not colon or not port.isdigit() or not host:
        raise SettingError(f"target {target!r} is not HOST:PORT, such as 127.0.0.1:50051")
    return host.removeprefix("[").removesuffix("]")


def is_loopback(host: str) -> bool:
    """True for localhost and loopback addresses; a name that must be looked up is not one."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_plaintext(host: str, *, encrypted: bool, allow_plaintext: bool, way_out: str) -> None:
    """Refuse an unencrypted connection that leaves this machine.

    Args:
        host: name or address.
        encrypted: TLS is configured.
        allow_plaintext: the user accepts plaintext.
        way_out: what to do instead, for the message.

    Raises:
        PlaintextRefusedError: plaintext to or on a host that is not loopback.
    """
    if not encrypted and not allow_plaintext and not is_loopback(host):
        raise PlaintextRefusedError(
            f"refused plaintext on {host}: prompts and answers would cross the network unencrypted; {way_out}"
        )
