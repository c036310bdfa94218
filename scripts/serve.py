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
    max_sessions: int = 1024
    """Most sessions at a time; where all are in use, a newcomer gets the idlest of who holds most."""
    max_requests: int = 1024
    """Most checks and streams at a time, waiting or running; more are told when to come back."""
    max_tokens: int | None = None
    """Most tokens that those bring and ask for; by default 262,144, or eight of the model's contexts where that is more."""
    max_streams: int = 128
    """Most streams at a time."""
    account_sessions: int = 256
    """Most sessions of one client."""
    account_requests: int = 256
    """Most checks and streams of one client at a time; of requests, tokens and streams none gets more than stays free."""
    account_streams: int = 64
    """Most streams of one client at a time."""
    account_tokens_per_second: float | None = None
    """Tokens that one client may have processed in the long run, a second; by default there is no limit."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe event that is logged, to standard error, a line each; debug tells every refused request."""


def main(arguments: Arguments) -> None:
    """Serve; return after a graceful stop.

    Raises:
        SyneraError: an argument is outside its range; the model, the profile, the certificates or the address cannot be used.
    """
    from cloud import log
    from cloud.server import serve

    log.configure(arguments.log_level)
    config = _config(arguments)

    def announce(port: int, info: EngineInfo) -> None:
        paced = f", paced by {arguments.pace}" if arguments.pace else ""
        model = f"model {info.model}, {info.architecture}, engine {info.engine}, {config.placement}{paced}"
        print(f"listening on {config.address(port)} ({model})", flush=True)
        say("next", f"{next_step('deploy', cloud=config.address(port))}   # in another terminal; Ctrl-C stops this server")
        sys.stdout.flush()

    serve(config, announce)


def _config(arguments: Arguments) -> ServerConfig:
    from cloud.admission import Limits
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
        limits=Limits(
            max_requests=arguments.max_requests,
            max_tokens=arguments.max_tokens,
            max_streams=arguments.max_streams,
            account_sessions=arguments.account_sessions,
            account_requests=arguments.account_requests,
            account_streams=arguments.account_streams,
            account_tokens_per_second=arguments.account_tokens_per_second,
        ),
        tls_certificate=arguments.tls_cert,
        tls_key=arguments.tls_key,
        allow_plaintext=arguments.allow_plaintext,
        pace=None if arguments.pace is None else CloudProfile.load(arguments.pace),
    )


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
