"""Addresses of the verifier and the rule that plaintext stays on one machine.

What does not live here: certificates (cloud/security.py, runtime/credentials.py).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Self

from runtime.errors import PlaintextRefusedError, SettingError
from runtime.settings import shown

_TARGET = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9_.-]+)):(?P<port>[1-9][0-9]{0,4})")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a client dials: a host in its one spelling, and a port; made by `parse`."""

    host: str
    """A name in lower case, an IPv4 address, or an IPv6 address without brackets."""
    port: int
    """1..65535."""

    @classmethod
    def parse(cls, target: str) -> Self:
        """Read `name:port`, `a.b.c.d:port` or `[ipv6]:port`, and nothing else.

        Raises:
            SettingError: it is written in another way, such as `127.1:80`, which resolvers read as an address.
        """
        found = _TARGET.fullmatch(target) if isinstance(target, str) else None
        host = _canonical(found["ipv6"], found["name"]) if found else None
        if found is None or host is None or int(found["port"]) > 65535:
            raise SettingError(
                f"target {shown(target)} is not HOST:PORT, such as 127.0.0.1:50051, [::1]:50051 or cloud.example:443; "
                "the port must be in 1..65535"
            )
        return cls(host, int(found["port"]))

    @classmethod
    def parse_all(cls, targets: str) -> tuple[Self, ...]:
        """Read one or several, with commas between them.

        Raises:
            SettingError: one is written in another way, or named twice.
        """
        read = tuple(cls.parse(target) for target in (targets.split(",") if isinstance(targets, str) else [targets]))
        if twice := next((each for number, each in enumerate(read) if each in read[:number]), None):
            raise SettingError(f"{twice} is named twice; name each verifier once")
        return read

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def uri(self) -> str:
        """What gRPC is told, so that it has nothing to guess."""
        try:
            return f"ipv{ipaddress.ip_address(self.host).version}:{self}"
        except ValueError:
            return f"dns:///{self}"


def _canonical(ipv6: str | None, name: str | None) -> str | None:
    """Return the one spelling of a host; None for what is none."""
    try:
        if ipv6 is not None:
            return str(ipaddress.IPv6Address(ipv6))
        name = (name or "").lower()
        labels = name.split(".")
        if _NUMBER.fullmatch(labels[-1]):  # as the resolvers see it, that is an address and no name
            return str(ipaddress.IPv4Address(name))
    except ValueError:
        return None
    return name if len(name) <= 253 and all(_LABEL.fullmatch(label) for label in labels) else None


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
