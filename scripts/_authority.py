"""A certificate authority for tests and small set-ups: ECDSA P-256, in memory.

What does not live here: files (make_certs.py).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from runtime.errors import SettingError
from runtime.settings import shown

LONGEST_COMMON_NAME = 64
"""Characters that X.509 allows."""
_EARLY = timedelta(minutes=5)  # for clocks that are a little late
_HOST = re.compile(r"(?=.{1,253}$)(\*\.)?[0-9A-Za-z_]([0-9A-Za-z_-]{0,62})(\.[0-9A-Za-z_][0-9A-Za-z_-]{0,62})*")


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM; the key has no pass phrase."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Authority:
    """Signs certificates."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, name: str, days: float, begins: datetime | None = None) -> Self:
        """Make a new one.

        Args:
            name: its common name.
            days: how long it is valid.
            begins: from when; None is now.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, _subject(name), key.public_key(), days, begins)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        return cls(builder.sign(key, hashes.SHA256()), key)

    @classmethod
    def read(cls, pair: Pair) -> Self:
        """Read one that was made before.

        Raises:
            SettingError: the two are none.
        """
        try:
            certificate = x509.load_pem_x509_certificate(pair.certificate)
            key = serialization.load_pem_private_key(pair.key, None)
        except (ValueError, TypeError):  # TypeError: the key has a pass phrase
            raise SettingError("the authority's certificate or key cannot be read") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise SettingError("the authority's certificate and key do not belong together")
        return cls(certificate, key)

    @property
    def pair(self) -> Pair:
        """To be written to files."""
        return Pair(self.certificate.public_bytes(serialization.Encoding.PEM), _pem(self.key))

    def server(self, hosts: Sequence[str], days: float, begins: datetime | None = None) -> Pair:
        """Sign a server's certificate.

        Args:
            hosts: names and addresses under which clients reach it, one at least.
            days: how long it is valid.
            begins: from when; None is now.

        Raises:
            SettingError: one is no name and no address.
        """
        return self._sign(hosts[0], [_host(each) for each in hosts], ExtendedKeyUsageOID.SERVER_AUTH, days, begins)

    def client(self, name: str, days: float, begins: datetime | None = None) -> Pair:
        """Sign a client's certificate; the verifier knows it by this common name."""
        return self._sign(name, [], ExtendedKeyUsageOID.CLIENT_AUTH, days, begins)

    def _sign(
        self, name: str, others: list[x509.GeneralName], use: x509.ObjectIdentifier, days: float, begins: datetime | None
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, self.certificate.subject, key.public_key(), days, begins)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        if others:
            builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
        return Pair(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM), _pem(key))


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: float, begins: datetime | None
) -> x509.CertificateBuilder:
    first = (begins or datetime.now(UTC)) - _EARLY
    return (
        x509.CertificateBuilder()
        .subject_name(_subject(name))
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(first + _EARLY + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:LONGEST_COMMON_NAME])])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        if not _HOST.fullmatch(host):
            raise SettingError(f"{shown(host)} is no name or address of a server, such as localhost or 10.0.0.7") from None
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    plain = serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
