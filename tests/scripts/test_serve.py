"""The verifier as a process: what it says on which stream, and how it ends."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import pytest

from runtime.wire import synera_pb2 as pb
from runtime.wire import synera_pb2_grpc
from tests.support.process import ROOT, Served, command, served, why_not_served
from tests.support.raw import channel_to, refused


def ended(process: Served) -> list[str]:
    """Ask for a stop; return the lines of the log."""
    process.process.send_signal(signal.SIGTERM)
    _, log = process.process.communicate(timeout=60)
    assert process.process.returncode == 0
    return log.splitlines()


def ask_wrongly(process: Served) -> None:
    with channel_to(process.port) as channel:
        stub = synera_pb2_grpc.SyneraStub(channel)
        refused(stub.Verify, pb.VerifyRequest(session_id="two\nlines \x1b[31m", seq=1))
        refused(stub.Open, pb.OpenRequest(tokenizer_hash="x" * 100))


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ((), ["started", "draining", "stopped"]),
        (("--log-level", "debug"), ["started", '"request refused"', '"request refused"', "draining", "stopped"]),
        (("--log-level", "error"), []),
    ],
)
def test_the_log_is_a_line_an_event_on_standard_error(tiny_llm: Path, level: tuple[str, ...], events: list[str]) -> None:
    with served(tiny_llm, *level) as process:
        ask_wrongly(process)
        lines = [line for line in ended(process) if " logger=cloud." in line]
    assert re.findall(r" event=(\w+|\".*?\") ", " ".join(lines)) == events
    assert all(line.isprintable() and line.startswith("time=20") for line in lines)
    if events:
        assert f"address=127.0.0.1:{process.port} model={tiny_llm.name} engine=torch" in lines[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--port", "70000"), "port=70000 must be an integer in 0..65535"),
        (("--max-sessions", "0"), "max_sessions=0 must be an integer in 1..100000"),
        (("--account-streams", "0"), "account_streams=0 must be an integer in 1..100000"),
        (("--account-tokens-per-second", "0"), "account_tokens_per_second=0.0 must be a number in 0.001..1e+09"),
        (("--max-tokens", "255"), "max_tokens=255 is less than the model's context of 256"),
        (("--drain-seconds", "3601"), "drain_seconds=3601.0 must be a number in 0..3600"),
        (("--drain-seconds", "nan"), "drain_seconds=nan must be a number in 0..3600"),
        (("--metrics-port", "65536"), "metrics_port=65536 must be an integer in 0..65535"),
        (("--metrics-host", "a b"), "metrics_host='a b' is not a name or an address"),
        (("--metrics-port", "0", "--metrics-host", "192.0.2.1"), "cannot listen on 192.0.2.1:0: "),
        (("--split", "1:2:3"), "split='1:2:3' must be FIRST or FIRST:LAST"),
        (("--split", "2:1"), "split=2:1 leaves the cloud none of the model's 3 layers"),
        (("--threads", "100000"), "threads=100000 must be an integer in 1..1024"),
        (("--host", "a b"), "host='a b' is not a name or an address"),
        (("--tls-cert", "none.pem", "--tls-key", "none.pem"), "cannot read the TLS certificate: 'none.pem' is not a file"),
        (("--tls-ca", "none.pem"), "tls_ca asks clients for certificates, which needs TLS"),
        (("--tokens", "none"), "cannot use the tokens of 'none': No such file or directory"),
    ],
)
def test_a_wrong_setting_is_one_line(
    tiny_llm: Path, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert why_not_served(capsys, "--model", tiny_llm, "--port", 0, *arguments).startswith(f"error: {said}")


def test_the_middle_of_a_split_model_is_served_and_said_to_be_that(tiny_llm: Path) -> None:
    line = command("--model", tiny_llm, "--port", "0", "--split", "1:1")
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert f"model {tiny_llm.name} but its first 1 and last 1 layers, LlamaForCausalLM, engine torch" in said
            port = re.search(r"127\.0\.0\.1:(\d+) ", said)
            assert port is not None
            with channel_to(int(port.group(1))) as channel:
                info = synera_pb2_grpc.SyneraStub(channel).ModelInfo(pb.ModelInfoRequest(), timeout=30)
            assert (info.middle.first_layers, info.middle.last_layers, info.middle.max_rows) == (1, 1, 512)
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
    assert process.returncode == 0
