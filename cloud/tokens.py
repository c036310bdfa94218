"""Bearer tokens: the file that names who may talk to the verifier, and whose a token is.

A line of the file is `NAME SHA256`: a client's name and the hash of its token, 64 hex digits. It holds no secret: tokens are drawn
from 2^256, so nobody finds one by its hash, and no salt or slow hash is needed. A name may have several lines, so that a token can
be replaced without a moment when neither works. Blank lines and what follows a `#` are passed over.

What does not live here: how a token comes with a call (authentication.py).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import stat
from pathlib import Path

from cloud.identity import LONGEST_NAME
from runtime.errors import SettingError
from runtime.settings import shown

MOST_TOKENS = 10_000
"""Lines of a file: each call is compared with all of them, about 0.1 microseconds each."""
_MOST_BYTES = 4_000_000
_NAME = re.compile(rf"[\w.@:/+-]{{1,{LONGEST_NAME}}}", re.ASCII)
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Tokens:
    """Whose token is whose."""

    def __init__(self, known: list[tuple[str, bytes]]) -> None:
        """Take names with the SHA-256 of their tokens."""
        self._known = known

    def __len__(self) -> int:
        return len(self._known)

    def name_of(self, token: str) -> str | None:
        """Return whose token it is; None if it is nobody's. How long that takes tells nothing about the tokens."""
        given, found = hashlib.sha256(token.encode()).digest(), None
        for name, digest in self._known:
            if hmac.compare_digest(digest, given):
                found = name
        return found


def new_token() -> str:
    """Draw a token: 256 bits, 43 characters of A-Z, a-z, 0-9, - and _."""
    return secrets.token_urlsafe(32)


def token_line(name: str, token: str) -> str:
    """Return the line of a file of tokens.

    Raises:
        SettingError: it is no name.
    """
    if not _NAME.fullmatch(name):
        raise SettingError(
            f"{shown(name)} is no name of a client; use 1..{LONGEST_NAME} letters, digits and _ . @ : / + - without spaces"
        )
    return f"{name} {hashlib.sha256(token.encode()).hexdigest()}"


def load_tokens(path: Path) -> Tokens:
    """Read a file of tokens.

    Raises:
        SettingError: it cannot be read, others may write to it, or a line is none; a message never shows what might be a token.
    """
    known = dict[bytes, str]()
    for number, line in enumerate(_lines(path), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or not _NAME.fullmatch(words[0]) or not _DIGEST.fullmatch(words[1]):
            raise _wrong(path, f"line {number} is not NAME SHA256", "make one with: synera make-certs --tokens NAME")
        if known.setdefault(bytes.fromhex(words[1]), words[0]) != words[0]:
            raise _wrong(path, f"line {number} gives the token of another name", "give each client a token of its own")
    if not known:
        raise _wrong(path, "it names nobody", "make a line with: synera make-certs --tokens NAME")
    if len(known) > MOST_TOKENS:
        raise _wrong(path, f"it holds {len(known)} tokens", f"give at most {MOST_TOKENS}, or certificates instead")
    return Tokens([(name, digest) for digest, name in known.items()])


def _lines(path: Path) -> list[str]:
    form = "name a file of lines NAME SHA256"
    try:
        found = path.stat()
        usable = stat.S_ISREG(found.st_mode) and found.st_size <= _MOST_BYTES  # a device or a pipe might never end
        text = path.read_bytes() if usable else b""
    except OSError as error:
        raise _wrong(path, error.strerror or "it cannot be read", form) from None
    if not usable:
        raise _wrong(path, f"it is not a file of at most {_MOST_BYTES} bytes", form)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise _wrong(path, "other users may write to it, and let themselves in", "take that away with: chmod go-w FILE")
    try:
        return text.decode().splitlines()
    except UnicodeDecodeError:
        raise _wrong(path, "it is not text", form) from None


def _wrong(path: Path, reason: str, way_out: str) -> SettingError:
    return SettingError(f"cannot use the tokens of {shown(str(path), 300)}: {reason}; {way_out}")
