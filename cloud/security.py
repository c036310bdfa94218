"""Certificates: of the server, and of the authority that signs those of clients; renewed files are taken without a restart.

What does not live here: the rule that plaintext stays on one machine (runtime/wire/address.py), whose name is in a client's
certificate (identity.py), and tokens (tokens.py).
"""

from __future__ import annotations

import logging
import ssl
import stat
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509

from cloud.log import fields
from cloud.renewal import Renewed
from runtime.errors import SettingError
from runtime.settings import plain, shown

_LONGEST_PATH = 300  # characters of a message
_log = logging.getLogger(__name__)


def server_credentials(certificate: Path, key: Path, clients_ca: Path | None = None) -> grpc.ServerCredentials:
    """Load TLS credentials. When a connection is made after a file was replaced, they are loaded again.

    Args:
        certificate: PEM file of the certificate chain.
        key: PEM file of its private key, without a pass phrase.
        clients_ca: PEM file of the authorities that sign clients' certificates; with it, who has none makes no connection.

    Raises:
        SettingError: a file cannot be read, the two are no certificate with its key, or a certificate is not valid now.
    """
    files = [each for each in (certificate, key, clients_ca) if each is not None]
    loaded = Renewed("certificates", files, lambda: _configuration(certificate, key, clients_ca))
    if key.stat().st_mode & stat.S_IROTH:
        _log.warning("the private key can be read by every user of this machine", extra=fields(file=key))

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        return loaded.value if loaded.refresh() else None

    return grpc.dynamic_ssl_server_credentials(
        loaded.value,
        renewed,  # type: ignore[arg-type]  # the stubs lack that None leaves it as it is
        require_client_authentication=clients_ca is not None,
    )


def _configuration(certificate: Path, key: Path, clients_ca: Path | None) -> grpc.ServerCertificateConfiguration:
    chain, private = _read("certificate", certificate), _read("key", key)
    authorities = None if clients_ca is None else _read("authority of clients", clients_ca)
    try:
        # gRPC would only print that something is wrong, and fail to bind.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=lambda: "")
        own = x509.load_pem_x509_certificates(chain)
    except (OSError, ValueError) as error:
        raise SettingError(
            f"the TLS certificate {_name(certificate)} and key {_name(key)} cannot be used ({plain(str(error), 200)}); give PEM files that belong together, the key without a pass phrase"
        ) from None
    for each in own:
        if why := _not_valid(each):
            raise SettingError(f"the TLS certificate {_name(certificate)} {why}; renew it, or set this machine's clock")
    if clients_ca is not None and authorities is not None:
        _check_authorities(clients_ca, authorities)
    return grpc.ssl_server_certificate_configuration([(private, chain)], authorities)


def _check_authorities(path: Path, content: bytes) -> None:
    try:
        authorities = x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise SettingError(
            f"the authority of clients {_name(path)} cannot be used ({plain(str(error), 200)}); give a PEM file of its certificate"
        ) from None
    wrong = [_not_valid(each) for each in authorities]  # one that is over may stay beside its successor
    if all(wrong):
        raise SettingError(f"the authority of clients {_name(path)} {wrong[0]}; renew it, or set this machine's clock")


def _not_valid(certificate: x509.Certificate) -> str:
    """Say why a certificate is not valid now; nothing if it is."""
    now = datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        return f"expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if now < certificate.not_valid_before_utc:
        return f"is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
    return ""


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
