"""How a verifier runs: every setting, validated.

What does not live here: what is done with a setting (server.py, engine/) and the command line (scripts/serve.py).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from pathlib import Path

from cloud.admission import Limits
from cloud.connections import Connections
from cloud.engine import registry
from cloud.engine.embedded.pace import Pace
from cloud.sessions import MOST_SESSIONS
from runtime.errors import SettingError
from runtime.model.placement import Placement
from runtime.model.split import Split
from runtime.pice.form import Form
from runtime.policies import DEFAULT_POLICY, POLICIES
from runtime.scheduling import TOKEN_BUDGET
from runtime.settings import one_of, shown, whole, within

_HOST = re.compile(r"[0-9A-Za-z._:%-]{1,253}")
_LONGEST_SWEEP_SECONDS = 30.0


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
    engine_process: bool = False
    """Whether it runs in a process of its own, where its forwards do not share Python's lock with the calls of the devices: faster for
    many, at the price of one more process and its memory."""
    split: Split | None = None
    """Run the middle of a split model, for devices that have its ends; None is the whole model, for devices with one of their own."""
    sketch: Form | None = None
    """How sketches are asked for and read; None writes none."""
    max_chunk_rows: int = 512
    """Longest chunk of hidden states for the middle, 1..8192."""
    device: str = "cpu"
    """Where it runs: `cpu`, `cuda`, `cuda:1`; `auto` takes cuda where there is one."""
    dtype: str = "float32"
    """Arithmetic type; float32 makes results independent of the batch."""
    threads: int | None = None
    """CPU threads of a forward, 1..1024; None leaves it to torch."""
    max_sessions: int = 1024
    """Most sessions at a time, 1..100000."""
    limits: Limits = field(default_factory=Limits)
    """How much else is taken on, in all and of one account."""
    lease_seconds: float = 300.0
    """An idle session is kept this long, 0.01..604800 (a week)."""
    policy: str = DEFAULT_POLICY
    """Who goes first into a forward; a name of `runtime.policies.POLICIES`."""
    token_budget: int = TOKEN_BUDGET
    """Most tokens in a forward, 1..1000000."""
    kv_tokens: int | None = None
    """Tokens whose keys and values there is room for, 1..1e9; None is 64 full contexts, or less where memory is short."""
    shares_prefixes: str = "none"
    """Whose sequences share the keys and values of what they begin with alike: those of an `account`, of `all`, or of `none`. The
    replay has every answer read its own prompt, so only with `none` does a check cost what the replay says; and with `all` clients
    may guess from the time of an answer what others asked."""
    max_draft_tokens: int = 16
    """Longest draft of one check, 1..1024."""
    tls_certificate: Path | None = None
    """PEM; None with `tls_key` None is plaintext."""
    tls_key: Path | None = None
    tls_ca: Path | None = None
    """PEM of the authorities of clients' certificates; without a certificate of theirs nobody makes a connection."""
    tokens: Path | None = None
    """Lines `NAME SHA256` (tokens.py); without a token of theirs nobody is answered. Over plaintext they can be overheard."""
    allow_plaintext: bool = False
    """Accept plaintext on an address that is not loopback."""
    reflection: bool = False
    """Tell which methods there are also where the address is not loopback."""
    connections: Connections = field(default_factory=Connections)
    """How many, and how long."""
    grace_seconds: float = 5.0
    """How long requests in flight may still take when stopping, 0..3600."""
    drain_seconds: float = 0.0
    """How long sessions may go on when a stop was asked for, before that grace, 0..3600."""
    metrics_port: int | None = None
    """Where metrics are served over HTTP, without encryption; None nowhere, 0 takes a free one."""
    metrics_host: str = "127.0.0.1"
    pace: Pace | None = None
    """Emulate the durations of another machine: its forwards, and the wait and the load that a request meets there."""
    pace_seed: int = 0
    """Of the engine's generator, from which waits and loads are drawn: one number a request, in order of arrival."""

    def __post_init__(self) -> None:
        self._check_types()
        _check_host("host", self.host)
        _check_host("metrics_host", self.metrics_host)
        whole("port", self.port, 0, 65535)
        if self.metrics_port is not None:
            whole("metrics_port", self.metrics_port, 0, 65535)
        one_of("engine", self.engine, tuple(registry.LOADERS))
        whole("max_sessions", self.max_sessions, 1, MOST_SESSIONS)
        one_of("policy", self.policy, tuple(POLICIES))
        whole("token_budget", self.token_budget, 1, 1_000_000)
        if self.kv_tokens is not None:
            whole("kv_tokens", self.kv_tokens, 1, 1_000_000_000)
        one_of("shares_prefixes", self.shares_prefixes, ("account", "all", "none"))
        whole("max_draft_tokens", self.max_draft_tokens, 1, 1024)
        whole("max_chunk_rows", self.max_chunk_rows, 1, 8192)
        whole("pace_seed", self.pace_seed, 0, 2**63 - 1)
        if self.threads is not None:
            whole("threads", self.threads, 1, 1024)
        within("lease_seconds", self.lease_seconds, 0.01, 604_800)
        within("grace_seconds", self.grace_seconds, 0, 3600)
        within("drain_seconds", self.drain_seconds, 0, 3600)
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise SettingError("TLS needs both a certificate and its key")
        if self.sketch is not None and self.split is not None:
            raise SettingError("sketch needs a whole model, which writes tokens; leave the split out")
        if self.tls_ca is not None and self.tls_certificate is None:
            raise SettingError("tls_ca asks clients for certificates, which needs TLS: give a certificate and its key as well")
        if not self.engine_process:  # which finds out by itself; this one then need not load torch
            _ = self.placement  # raises for what this machine has not

    def _check_types(self) -> None:
        """Refuse what only fails later, or, as a word for a switch, does the opposite of what it says."""
        optional = type(None)
        for name, allowed in {
            "model": (Path,),
            "split": (Split, optional),
            "sketch": (Form, optional),
            "host": (str,),
            "metrics_host": (str,),
            "device": (str,),
            "dtype": (str,),
            "tls_certificate": (Path, optional),
            "tls_key": (Path, optional),
            "tls_ca": (Path, optional),
            "tokens": (Path, optional),
            "allow_plaintext": (bool,),
            "reflection": (bool,),
            "engine_process": (bool,),
            "connections": (Connections,),
            "pace": (Pace, optional),
            "limits": (Limits,),
        }.items():
            if not isinstance(getattr(self, name), allowed):
                words = " or ".join("None" if each is optional else each.__name__ for each in allowed)
                raise SettingError(f"{name}={shown(getattr(self, name))} must be a {words}")

    @property
    def placement(self) -> Placement:
        """Device and arithmetic type, `auto` resolved."""
        return Placement.of(self.device, self.dtype)

    @property
    def sweep_seconds(self) -> float:
        """Period at which expired sessions are looked for: an idle one ends this long after its lease at the latest."""
        return min(self.lease_seconds / 4, self.limits.unused_seconds / 4, _LONGEST_SWEEP_SECONDS)

    def address(self, port: int) -> str:
        """`host:port`, with brackets around an IPv6 host."""
        return endpoint(self.host, port)


def endpoint(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 host."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _check_host(name: str, host: str) -> None:
    is_address = True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        is_address = False
    if not _HOST.fullmatch(host) or (":" in host and not is_address):
        raise SettingError(
            f"{name}={shown(host)} is not a name or an address to listen on, such as 127.0.0.1, ::1 or localhost"
        )
