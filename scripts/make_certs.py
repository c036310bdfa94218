"""Make certificates and tokens for a verifier and its devices, signed by an authority of your own.

Examples:
    synera make-certs                                         # an authority and a server's certificate for this machine
    synera make-certs --server verifier.example.org 10.0.0.7 --clients phone-1 phone-2
    synera make-certs --clients phone-3 --tokens phone-3      # later, by the same authority
    synera make-certs --server localhost --overwrite          # renewed; a running verifier takes it by itself
"""

from __future__ import annotations

import os
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cloud.tokens import load_tokens, new_token, token_line
from runtime.errors import SettingError
from runtime.settings import shown, whole
from runtime.wire.address import Address, is_loopback
from scripts._authority import LONGEST_COMMON_NAME, Authority, Pair
from scripts._cli import check_output, launch, next_step, say
from traces.files import make_folder, replacing

_NAME = re.compile(rf"[0-9A-Za-z][0-9A-Za-z_.-]{{0,{LONGEST_COMMON_NAME - 1}}}")  # it names a folder, too
_HERE = ("localhost", "127.0.0.1", "::1")
_SECRET, _OPEN = 0o600, 0o644
_AUTHORITY_DAYS = 3650


@dataclass(frozen=True)
class Arguments:
    """Make certificates and tokens for a verifier and its devices."""

    out: Path = Path("runs/certs")
    """Folder that they go to; an authority that is there signs the new ones."""
    server: tuple[str, ...] = ()
    """Names and addresses under which devices reach the verifier; by default, where there is no certificate yet, this machine."""
    clients: tuple[str, ...] = ()
    """Names of devices that get a certificate each."""
    tokens: tuple[str, ...] = ()
    """Names of devices that get a token each."""
    days: int = 90
    """How long certificates are valid; the authority ten years."""
    overwrite: bool = False
    """Replace those of these names that are there; the authority stays."""

    def __post_init__(self) -> None:
        whole("days", self.days, 1, _AUTHORITY_DAYS)
        for each in (*self.clients, *self.tokens):
            if not _NAME.fullmatch(each):
                raise SettingError(
                    f"{shown(each)} is no name of a device; use 1..{LONGEST_COMMON_NAME} letters, digits, and _ . - after the first"
                )


@dataclass(frozen=True)
class _File:
    path: Path
    content: bytes
    mode: int


def main(arguments: Arguments) -> None:
    """Make, write, and say what to type next.

    Raises:
        SettingError: a name is none, or there is already what would be made.
        TraceError: the folder cannot be written to.
    """
    check_output(arguments.out, folder=True)
    files = _files(arguments)
    make_folder(arguments.out)
    _write(files)
    _say_what_comes_next(arguments, files)


def _files(arguments: Arguments) -> list[_File]:
    """Everything that is to be written, made before the first of it is."""
    out, files = arguments.out, list[_File]()
    if (authority := _authority(out)) is None:
        authority = Authority.make("Synera test authority", _AUTHORITY_DAYS)
        files += _pair(authority.pair, out / "ca.pem", out / "ca-key.pem")
    hosts = arguments.server or (() if (out / "server.pem").exists() else _HERE)
    if hosts:
        files += _pair(authority.server(hosts, arguments.days), out / "server.pem", out / "server-key.pem")
    for name in dict.fromkeys(arguments.clients):
        folder = out / "clients" / name
        files += _pair(authority.client(name, arguments.days), folder / "cert.pem", folder / "key.pem")
    made = {name: new_token() for name in arguments.tokens}
    files += [_File(out / "clients" / name / "token", f"{token}\n".encode(), _SECRET) for name, token in made.items()]
    there = [each.path for each in files if each.path.exists()]
    if there and not arguments.overwrite:
        raise SettingError(f"{shown(str(there[0]), 200)} is there already; keep it, or add --overwrite to replace it")
    if made:
        files.append(_File(out / "tokens", _with_tokens(out / "tokens", made).encode(), _OPEN))
    return files


def _authority(out: Path) -> Authority | None:
    certificate, key = out / "ca.pem", out / "ca-key.pem"
    if not certificate.exists() and not key.exists():
        return None
    try:
        return Authority.read(Pair(certificate.read_bytes(), key.read_bytes()))
    except (OSError, SettingError) as error:
        why = str(error.strerror if isinstance(error, OSError) else error)
        raise SettingError(
            f"cannot sign with {shown(str(certificate), 200)} and {key.name}: {why}; name another folder with --out"
        ) from None


def _with_tokens(path: Path, made: dict[str, str]) -> str:
    """The file of tokens with new ones; what is there of other names stays as it is."""
    lines = list[str]()
    if path.exists():
        load_tokens(path)
        lines = [
            each
            for each in path.read_text(encoding="utf-8").splitlines()
            if each.split(maxsplit=1)[:1] not in ([n] for n in made)
        ]
    return "\n".join([*lines, *(token_line(name, token) for name, token in made.items())]) + "\n"


def _pair(pair: Pair, certificate: Path, key: Path) -> list[_File]:
    return [_File(certificate, pair.certificate, _OPEN), _File(key, pair.key, _SECRET)]


def _write(files: list[_File]) -> None:
    """Write all or nothing: each beside its place first, and only then all into their places."""
    with ExitStack() as placed:
        for each in files:
            part = placed.enter_context(replacing(each.path))
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, each.mode), "wb") as file:
                file.write(each.content)


def _say_what_comes_next(arguments: Arguments, files: list[_File]) -> None:
    out = arguments.out
    for each in files:
        print(f"{each.path}{'   # secret: only you can read it' if each.mode == _SECRET else ''}")
    certified, named = (out / "clients").glob("*/cert.pem"), out / "tokens"
    serving = {"tls_cert": out / "server.pem", "tls_key": out / "server-key.pem"}
    serving |= {"tls_ca": out / "ca.pem"} if any(certified) else {}
    serving |= {"tokens": named} if named.exists() else {}
    elsewhere = {"host": "0.0.0.0"} if arguments.server and not any(map(is_loopback, arguments.server)) else {}
    asked = {"cloud": str(Address(arguments.server[0], 50051))} if elsewhere else {}
    say(
        "next",
        next_step("serve", **elsewhere, **serving),
        next_step("deploy", tls_ca=out / "ca.pem", **asked, **_of_a_device(out)),
    )


def _of_a_device(out: Path) -> dict[str, Path]:
    """The options by which the first device that has files shows who it is."""
    for own in sorted((out / "clients").glob("*")):
        has = {"tls_cert": own / "cert.pem", "tls_key": own / "key.pem", "token_file": own / "token"}
        return {option: path for option, path in has.items() if path.exists()}
    return {}


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
