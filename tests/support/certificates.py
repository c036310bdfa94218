"""Files of certificates, and channels that use them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import grpc

from scripts._authority import Authority, Pair

DAYS = 2


@dataclass(frozen=True)
class Files:
    """A certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class TestAuthority:
    """An authority with a folder for what it signs."""

    __test__ = False

    folder: Path
    authority: Authority

    @classmethod
    def make(cls, folder: Path, name: str = "authority") -> TestAuthority:
        folder.mkdir(parents=True, exist_ok=True)
        authority = Authority.make(name, DAYS)
        (folder / "ca.pem").write_bytes(authority.pair.certificate)
        return cls(folder, authority)

    @property
    def file(self) -> Path:
        return self.folder / "ca.pem"

    def server(self, name: str = "server", *, begins: datetime | None = None, days: float = DAYS) -> Files:
        return written(self.folder / name, self.authority.server(("localhost", "127.0.0.1"), days, begins))

    def client(self, name: str = "phone", *, begins: datetime | None = None) -> Files:
        return written(self.folder / f"client-{len(name)}-{hash(name)}", self.authority.client(name, DAYS, begins))


def written(stem: Path, pair: Pair) -> Files:
    """Replace, as a renewal does: whole files, renamed into their places."""
    files = Files(stem.with_name(f"{stem.name}.pem"), stem.with_name(f"{stem.name}-key.pem"))
    for path, content in ((files.certificate, pair.certificate), (files.key, pair.key)):
        part = path.with_suffix(".part")
        part.write_bytes(content)
        part.chmod(0o600)
        part.replace(path)
    return files


@contextmanager
def secure_channel_to(port: int, ca: Path, own: Files | None = None) -> Iterator[grpc.Channel]:
    """A connection of its own to a server on this machine, with a client's certificate or without."""
    pair = (None, None) if own is None else (own.key.read_bytes(), own.certificate.read_bytes())
    credentials = grpc.ssl_channel_credentials(ca.read_bytes(), *pair)
    options = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        yield channel
