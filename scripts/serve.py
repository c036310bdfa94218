"""Serve an LLM as a verifier, until Ctrl-C or SIGTERM.

Examples:
    synera serve                                        # the bundled LLM on 127.0.0.1:50051
    synera serve --model /models/Qwen3-8B --dtype bfloat16 --device cuda:1
    synera serve --pace profile.json                    # this machine, with the durations of another
    synera serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cloud.engine import registry
from scripts._cli import Dtype, launch, next_step, say
from traces import bundled

if TYPE_CHECKING:  # torch and grpc load only after the arguments are understood
    from cloud.config import ServerConfig
    from cloud.engine.base import EngineInfo


@dataclass(frozen=True)
class Arguments:
    """Serve an LLM as a verifier."""

    model: Path = bundled.PAIR / "llm"
    """Hugging Face folder of the LLM: config.json, *.safetensors, tokenizer.json."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 50051
    """Port to listen on; 0 takes a free one."""
    engine: str = registry.DEFAULT
    """What runs the LLM; torch is the embedded engine."""
    device: str = "auto"
    """Where it runs: cpu, cuda, cuda:1; auto takes cuda where there is one."""
    dtype: Dtype = "float32"
    """Arithmetic type; float32 makes results independent of the batch."""
    pace: Path | None = None
    """JSON cloud profile whose durations are emulated."""
    threads: int | None = None
    """CPU threads of a forward; by default torch decides."""
    tls_cert: Path | None = None
    """PEM certificate chain."""
    tls_key: Path | None = None
    """PEM private key of the certificate."""
    allow_plaintext: bool = False
    """Listen without TLS on an address that other machines reach."""
    max_sessions: int = 64
    """Most sessions at a time; more are told to come back later."""
    drain_seconds: float = 0.0
    """How long open sessions may go on after Ctrl-C or SIGTERM, while no more are admitted; a second one stops at once."""
    metrics_port: int | None = None
    """Serve Prometheus metrics and /healthz over HTTP on this port; 0 takes a free one."""
    metrics_host: str = "127.0.0.1"
    """Address that the metrics are served on, in plain text to whoever asks."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe event that is logged, to standard error, a line each; debug tells every refused request."""
    log_format: Literal["logfmt", "json"] = "logfmt"
    """What a line of the log looks like: key=value each, or a JSON object."""


def main(arguments: Arguments) -> None:
    """Serve; return after a graceful stop that was asked for.

    Raises:
        SystemExit: the engine died; with exit code 1.
        SyneraError: an argument is outside its range; the model, the profile, the certificates or the address cannot be used.
    """
    from cloud import log
    from cloud.process import serve

    log.configure(arguments.log_level, arguments.log_format)
    config = _config(arguments)

    def announce(port: int, info: EngineInfo) -> None:
        paced = f", paced by {arguments.pace}" if arguments.pace else ""
        model = f"model {info.model}, {info.architecture}, engine {info.engine}, {config.placement}{paced}"
        print(f"listening on {config.address(port)} ({model})", flush=True)
        say("next", f"{next_step('deploy', cloud=config.address(port))}   # in another terminal; Ctrl-C stops this server")
        sys.stdout.flush()

    if code := serve(config, announce):
        sys.exit(code)


def _config(arguments: Arguments) -> ServerConfig:
    from cloud.config import ServerConfig
    from traces.profile import CloudProfile

    return ServerConfig(
        model=arguments.model,
        host=arguments.host,
        port=arguments.port,
        engine=arguments.engine,
        device=arguments.device,
        dtype=arguments.dtype,
        threads=arguments.threads,
        max_sessions=arguments.max_sessions,
        drain_seconds=arguments.drain_seconds,
        metrics_port=arguments.metrics_port,
        metrics_host=arguments.metrics_host,
        tls_certificate=arguments.tls_cert,
        tls_key=arguments.tls_key,
        allow_plaintext=arguments.allow_plaintext,
        pace=None if arguments.pace is None else CloudProfile.load(arguments.pace),
    )


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
