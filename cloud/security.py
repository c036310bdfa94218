"""Certificates of the server.

What does not live here: the rule that plaintext stays on one machine (runtime/wire/address.py).
"""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc

from runtime.errors import SettingError
from runtime.settings import plain, shown

_LONGEST_PATH = 300  # characters of a message


def server_credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Load TLS credentials.

    Args:
        certificate: PEM file of the certificate chain.
        key: PEM file of its private key, without a pass phrase.

    Raises:
        SettingError: a file cannot be read, or the two are no certificate with its key.
    """
    chain, private = _read("certificate", certificate), _read("key", key)
    try:
        # gRPC would only print that something is wrong, and fail to bind.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise SettingError(
            f"the TLS certificate {_name(certificate)} and key {_name(key)} cannot be used ({plain(str(error), 200)}); give PEM files that belong together, the key without a pass phrase"
        ) from None
    return grpc.ssl_server_credentials([(private, chain)])


def _read(what: str, path: Path) -> bytes:
    try:
        regular = path.is_file()  # a device or a pipe might never end
        content = path.read_bytes() if regular else b""
    except OSError as error:
        raise SettingError(f"cannot read the TLS {what} {_name(path)}: {error.strerror}") from None
    if not regular:
        raise SettingError(f"cannot read the TLS {what}: {_name(path)} is not a file")
    return content


def _name(path: Path) -> str:
    return shown(str(path), _LONGEST_PATH)
