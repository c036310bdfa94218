"""How a device says who it is, and by what it knows the verifier: certificates and a token, read from files and checked at once.

What does not live here: the rule that plaintext stays on one machine (wire/address.py), the channels that are made of them
(channels.py), and what a verifier takes (cloud/security.py).
"""

from __future__ import annotations

import os
import re
import ssl
import stat
from dataclasses import dataclass, field, fields
from pathlib import Path

import grpc

from runtime.errors import SettingError
from runtime.settings import plain, shown
from runtime.wire import TOKEN_KEY

MOST_TOKEN_CHARACTERS = 2048
"""Longest token: a verifier takes 4 KB of headers."""
_TOKEN = re.compile(rf"[A-Za-z0-9._~+/-]{{1,{MOST_TOKEN_CHARACTERS}}}={{0,2}}")  # RFC 6750 (2.1)
_MOST_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Credentials:
    """What a device shows and asks for when it calls a verifier. Without any, it calls in plaintext and says no name.

    Raises:
        SettingError: they do not go together, or the token is none.
    """

    tls_ca: Path | None = None
    """PEM file of the authority that signed the verifier's certificate; None is plaintext."""
    certificate: Path | None = None
    """PEM file of the device's own certificate chain, for a verifier that asks for one."""
    key: Path | None = None
    """PEM file of its private key, without a pass phrase."""
    token: str | None = field(default=None, repr=False)
    """Sent with every call; it shows in no message of ours."""

    def __post_init__(self) -> None:
        for each in fields(self):
            kind: type = str if each.name == "token" else Path
            if not isinstance(getattr(self, each.name), (kind, type(None))):
                given = "what was given" if each.name == "token" else shown(getattr(self, each.name))
                raise SettingError(f"{each.name}: {given} must be a {kind.__name__}, or None")
        if (self.certificate is None) != (self.key is None):
            raise SettingError("a device's certificate needs its key, and the key its certificate; give both, or none")
        if self.certificate is not None and self.tls_ca is None:
            raise SettingError("a device's certificate is of use with TLS only; give tls_ca, the verifier's authority, too")
        if self.token is not None and not _TOKEN.fullmatch(self.token):
            raise SettingError(
                f"the token must be 1 to {MOST_TOKEN_CHARACTERS} letters, digits or any of . _ ~ + / -, on one line; "
                "what was given is not"
            )

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return () if self.token is None else ((TOKEN_KEY, f"Bearer {self.token}"),)

    def channel(self) -> grpc.ChannelCredentials | None:
        """Read and check the files, and make of them what a channel takes; None is plaintext.

        Raises:
            SettingError: a file holds no certificate or key, they do not belong together, or others may read the key.
            OSError: a file cannot be read.
        """
        if self.tls_ca is None:
            return None
        authority = _read_authority(self.tls_ca)
        if self.certificate is None or self.key is None:
            return grpc.ssl_channel_credentials(authority)
        key, chain = read_secret("tls_key", self.key), _read("tls_cert", self.certificate)
        try:
            # gRPC would only fail to connect.
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(self.certificate, self.key, password=lambda: "")
        except (ssl.SSLError, ValueError) as error:
            raise SettingError(
                f"the certificate {_name(self.certificate)} and key {_name(self.key)} cannot be used ({plain(str(error))}); "
                "give PEM files that belong together, the key without a pass phrase"
            ) from None
        return grpc.ssl_channel_credentials(authority, key, chain)


def read_token(path: Path) -> str:
    """Read a token from its file, which holds nothing else.

    Raises:
        SettingError: it is no file, others may read it, or it holds no token.
        OSError: it cannot be read.
    """
    content = read_secret("token_file", path)
    try:
        token = content.decode("ascii").strip(" \t\r\n")
    except UnicodeDecodeError:
        token = ""
    if not _TOKEN.fullmatch(token):
        raise SettingError(
            f"token_file={_name(path)} holds no token: it must be 1 to {MOST_TOKEN_CHARACTERS} letters, digits or any of "
            ". _ ~ + / -, on one line, and nothing else"
        )
    return token


def read_secret(what: str, path: Path) -> bytes:
    """Read a file that only its owner may read; one of root's also a group (PostgreSQL's rule for keys, which suits what
    Kubernetes mounts).

    Raises:
        SettingError: it is no file, too large, or others may read or change it.
        OSError: it cannot be read.
    """
    return _read(what, path, secret=True)


def too_open(mode: int, owner: int) -> bool:
    """Say whether others than its owner may use a file of this mode; `owner` is a user id, 0 for root."""
    return bool(mode & (0o037 if owner == 0 else 0o077))


def _read(what: str, path: Path, *, secret: bool = False) -> bytes:
    # Without waiting for who might write to a pipe; asked of what was opened, so that nobody can change it in between.
    opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(opened)
        if not stat.S_ISREG(status.st_mode):
            raise SettingError(f"{what}={_name(path)} is not a file")
        if secret and too_open(status.st_mode, status.st_uid):
            raise SettingError(
                f"{what}={_name(path)} may be used by others (mode {stat.S_IMODE(status.st_mode):04o}); chmod 600 {plain(str(path))}"
            )
        with open(opened, "rb", closefd=False) as file:
            content = file.read(_MOST_FILE_BYTES + 1)
    finally:
        os.close(opened)
    if len(content) > _MOST_FILE_BYTES:
        raise SettingError(f"{what}={_name(path)} is larger than {_MOST_FILE_BYTES} bytes; is it the right file?")
    return content


def _read_authority(path: Path) -> bytes:
    content = _read("tls_ca", path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:  # gRPC would only fail to connect
        raise SettingError(
            f"tls_ca={_name(path)} holds no certificate ({plain(str(error))}); give the PEM file of the authority"
        ) from None
    return content


def _name(path: Path) -> str:
    return shown(str(path), 200)
