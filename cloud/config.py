"""How a verifier runs: every setting, validated.

What does not live here: what is done with a setting (server.py, engine/) and the command line (scripts/serve.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cloud.engine import registry
from runtime.errors import SettingError
from runtime.model.placement import Placement

if TYPE_CHECKING:
    from cloud.engine.embedded.pace import Pace


@dataclass(frozen=True)
class ServerConfig:
    """How a verifier runs.

    Raises:
        SettingError: a setting is outside its range.
        PlacementError: the machine has no such device.
    """

    model: Path
    """Hugging Face folder of the LLM, with its tokenizer."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 takes a free one."""
    engine: str = registry.DEFAULT
    """What runs the LLM; a name in the registry."""
    device: str = "cpu"
    """Where it runs: `cpu`, `cuda`, `cuda:1`; `auto` takes cuda where there is one."""
    dtype: str = "float32"
    """Arithmetic type; float32 makes results independent of the batch."""
    threads: int | None = None
    """CPU threads of a forward; None leaves it to torch."""
    max_sessions: int = 64
    """Most sessions and streams at a time."""
    lease_seconds: float = 300.0
    """An idle session is kept this long."""
    token_budget: int = 512
    """Most tokens in a batch of several requests."""
    max_draft_tokens: int = 16
    """Longest draft of one check."""
    tls_certificate: Path | None = None
    """PEM; None with `tls_key` None is plaintext."""
    tls_key: Path | None = None
    allow_plaintext: bool = False
    """Accept plaintext on an address that is not loopback."""
    grace_seconds: float = 5.0
    """How long requests in flight may still take when stopping."""
    pace: Pace | None = None
    """Emulate the durations of another machine: its forwards, and the wait and the load that a request meets there."""
    pace_seed: int = 0
    """Of the engine's generator, from which waits and loads are drawn: one number a request, in order of arrival."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise SettingError(f"port={self.port} is outside 0..65535")
        if self.engine not in registry.LOADERS:
            raise SettingError(f"engine={self.engine!r} is not one of {', '.join(registry.LOADERS)}")
        for name in ("max_sessions", "token_budget", "max_draft_tokens"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name}={getattr(self, name)} must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise SettingError(f"threads={self.threads} must be at least 1")
        if not self.lease_seconds > 0 or self.grace_seconds < 0:
            raise SettingError(
                f"lease_seconds={self.lease_seconds} must be above 0 and grace_seconds={self.grace_seconds} at least 0"
            )
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise SettingError("TLS needs both a certificate and its key")
        _ = self.placement  # raises for what this machine has not

    @property
    def placement(self) -> Placement:
        """Device and arithmetic type, `auto` resolved."""
        return Placement.of(self.device, self.dtype)

    def address(self, port: int) -> str:
        """`host:port`, with brackets around an IPv6 host."""
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"
