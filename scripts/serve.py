"""Serve an LLM as a verifier, until Ctrl-C or SIGTERM.

Examples:
    synera serve                                        # the bundled LLM on 127.0.0.1:50051
    synera serve --model /models/Qwen3-8B --dtype bfloat16 --device cuda:1
    synera serve --model /models/Qwen3-8B --split 2     # its middle alone, for devices that run embeddings, the first 2 layers and head
    synera serve --pace profile.json                    # this machine, with the durations of another
    synera serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --tokens tokens
    synera serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem --tls-ca ca.pem   # clients need certificates
"""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cloud.engine import registry
from runtime.scheduling import TOKEN_BUDGET
from scripts._cli import Dtype, launch, say
from traces import bundled

if TYPE_CHECKING:  # torch and grpc load only after the arguments are understood
    from cloud.config import ServerConfig
    from cloud.engine.base import EngineInfo


@dataclass(frozen=True)
class Arguments:
    """Serve an LLM as a verifier."""

    model: Path = bundled.PAIR / "llm"
    """Hugging Face folder of the LLM: config.json, *.safetensors, tokenizer.json."""
    split: str | None = None
    """FIRST or FIRST:LAST: serve the middle of the LLM, for devices that run its embeddings, its first and last so many layers and its
    head. By default all of it is served, for devices with a model of their own."""
    sketch: str | None = None
    """Also write sketches, for PICE: instruct, for an instruction model, or a YAML file that says how yours is asked for them."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 50051
    """Port to listen on; 0 takes a free one."""
    engine: str = registry.DEFAULT
    """What runs the LLM; torch is the embedded engine."""
    engine_process: bool = True
    """Run it in a process of its own; without that a busy verifier answers fewer devices, but needs less memory."""
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
    tls_ca: Path | None = None
    """PEM certificate of the authority of clients; who has no certificate of it makes no connection."""
    tokens: Path | None = None
    """Who may ask: lines NAME SHA256, as make-certs writes them; a call without such a token is refused."""
    allow_plaintext: bool = False
    """Listen without TLS on an address that other machines reach."""
    reflection: bool = False
    """Tell also other machines which methods there are; on a loopback address that is told anyway."""
    policy: Literal["verification_aware", "fcfs", "edf", "mlfq", "fcfs_whole"] = "verification_aware"
    """Who goes first into a forward: checks before prompts, first come, earliest deadline, short ones, or first come with prompts whole."""
    token_budget: int = TOKEN_BUDGET
    """Most tokens in a forward; fewer let checks wait less beside long prompts, more read prompts faster."""
    kv_tokens: int | None = None
    """Tokens whose keys and values are kept at a time; by default 64 full contexts, or what a quarter of the memory holds. Sessions
    that yield to others are read again."""
    share_prefixes: Literal["none", "account", "all"] = "none"
    """Whose sessions share the keys and values of prompts that begin alike. The replay, so every promise of cost, has each answer
    read its own; with all, clients may guess from an answer's time what others asked."""
    max_sessions: int = 1024
    """Most sessions at a time; where all are in use, a newcomer gets the idlest of who holds most."""
    lease_seconds: float = 300.0
    """How long a session that nothing is asked of is kept."""
    max_requests: int = 1024
    """Most checks and streams at a time, waiting or running; more are told when to come back."""
    max_tokens: int | None = None
    """Most tokens that those bring and ask for; by default 262,144, or eight of the model's contexts where that is more."""
    max_streams: int = 128
    """Most streams at a time; of a split model those alone that have not asked for anything yet."""
    max_answer_bytes: int | None = None
    """Of a split model: bytes of answers that are kept for who asks again; by default 256 MiB, or more where a chunk's answer is long. Who
    asks for one that is gone opens another session and sends all of it."""
    account_sessions: int = 256
    """Most sessions of one client."""
    account_requests: int = 256
    """Most checks and streams of one client at a time; of requests, tokens and streams none gets more than stays free."""
    account_streams: int = 64
    """Most streams of one client at a time."""
    account_tokens_per_second: float | None = None
    """Tokens that one client may have processed in the long run, a second; by default there is no limit."""
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
    # What its core prints by itself, such as of each failed handshake, is no line of the log, and any peer could fill a disk with it.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from cloud import log
    from cloud.process import serve

    log.configure(arguments.log_level, arguments.log_format)
    config = _config(arguments)

    def announce(port: int, info: EngineInfo) -> None:
        paced = f", paced by {arguments.pace}" if arguments.pace else ""
        part = (
            ""
            if info.middle is None
            else f" but its first {info.middle.first_layers} and last {info.middle.last_layers} layers"
        )
        model = f"model {info.model}{part}, {info.architecture}, engine {info.engine}, {info.placement}{paced}"
        print(f"listening on {config.address(port)} ({model})", flush=True)
        # `next_step` would load all that a device needs into this process, for as long as it serves.
        system = ["--system", "hat"] if info.middle is not None else []
        deploy = shlex.join(["synera", "deploy", *system, "--cloud", config.address(port)])
        say("next", f"{deploy}   # in another terminal; Ctrl-C stops this server")
        sys.stdout.flush()

    if code := serve(config, announce):
        sys.exit(code)


def _config(arguments: Arguments) -> ServerConfig:
    from cloud.admission import Limits
    from cloud.config import ServerConfig
    from runtime.model.split import Split
    from runtime.pice.form import Form
    from traces.profile import CloudProfile

    return ServerConfig(
        model=arguments.model,
        split=None if arguments.split is None else Split.parse(arguments.split),
        sketch=None if arguments.sketch is None else Form.named(arguments.sketch),
        host=arguments.host,
        port=arguments.port,
        engine=arguments.engine,
        engine_process=arguments.engine_process,
        device=arguments.device,
        dtype=arguments.dtype,
        threads=arguments.threads,
        max_sessions=arguments.max_sessions,
        lease_seconds=arguments.lease_seconds,
        policy=arguments.policy,
        token_budget=arguments.token_budget,
        kv_tokens=arguments.kv_tokens,
        shares_prefixes=arguments.share_prefixes,
        limits=Limits(
            max_requests=arguments.max_requests,
            max_tokens=arguments.max_tokens,
            max_streams=arguments.max_streams,
            max_answer_bytes=arguments.max_answer_bytes,
            account_sessions=arguments.account_sessions,
            account_requests=arguments.account_requests,
            account_streams=arguments.account_streams,
            account_tokens_per_second=arguments.account_tokens_per_second,
        ),
        drain_seconds=arguments.drain_seconds,
        metrics_port=arguments.metrics_port,
        metrics_host=arguments.metrics_host,
        tls_certificate=arguments.tls_cert,
        tls_key=arguments.tls_key,
        tls_ca=arguments.tls_ca,
        tokens=arguments.tokens,
        allow_plaintext=arguments.allow_plaintext,
        reflection=arguments.reflection,
        pace=None if arguments.pace is None else CloudProfile.load(arguments.pace),
    )


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
