"""Certificates of the server.

What does not live here: the rule that plaintext stays on one machine (runtime/wire/address.py).
"""

from __future__ import annotations

from pathlib import Path

import grpc


def server_credentials(certificate: Path, key: Path) -> grpc.ServerCredentials:
    """Load TLS credentials.

    Args:
        certificate: PEM file of the certificate chain.
        key: PEM file of its private key.

    Raises:
        OSError: a file cannot be read.
    """
    return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])
