from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.wire import synera_pb2 as pb
from runtime.wire.address import PlaintextRefusedError, check_plaintext, host_of, is_loopback
from runtime.wire.generate import PROTO, ROOT, generate
from runtime.wire.sizes import (
    SESSION_ID_CHARACTERS,
    TOKENIZER_HASH_CHARACTERS,
    open_request_bytes,
    open_response_bytes,
    verify_request_bytes,
    verify_response_bytes,
)

U32 = st.integers(0, 2**32 - 1) | st.integers(0, 300)
IDS = st.lists(U32, max_size=200)
MS = st.floats(0, 1e6)
SESSION = "0" * SESSION_ID_CHARACTERS


@given(U32, IDS, IDS, U32)
def test_request_sizes_are_protobufs_own(prefix: int, context: list[int], draft: list[int], seq: int) -> None:
    message = pb.VerifyRequest(session_id=SESSION, seq=seq, prefix_length=prefix, context=context, draft=draft)
    assert verify_request_bytes(prefix, context, draft, seq) == message.ByteSize()


@given(U32, U32, U32, U32, MS, MS, MS)
def test_response_sizes_are_protobufs_own_whatever_the_durations(
    accepted: int, next_token: int, processed: int, load: int, queue_ms: float, compute_ms: float, share_ms: float
) -> None:
    message = pb.VerifyResponse(
        accepted=accepted,
        next_token=next_token,
        processed_tokens=processed,
        load=load,
        queue_ms=queue_ms,
        compute_ms=compute_ms,
        compute_share_ms=share_ms,
    )
    assert verify_response_bytes(accepted, next_token, processed, load) == message.ByteSize()


def test_open_sizes_are_protobufs_own() -> None:
    assert open_request_bytes() == pb.OpenRequest(tokenizer_hash="0" * TOKENIZER_HASH_CHARACTERS).ByteSize()
    assert open_request_bytes(64) == pb.OpenRequest(tokenizer_hash="0" * 64).ByteSize()
    assert (
        open_response_bytes()
        == pb.OpenResponse(session_id=SESSION, fingerprint="0123456789abcdef", lease_seconds=0.0).ByteSize()
    )


def test_the_sizes_load_neither_grpc_nor_protobuf() -> None:
    code = "import sys, runtime.wire.sizes; print([m for m in sys.modules if m.split('.')[0] in ('grpc', 'google', 'torch')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_every_field_says_its_meaning_or_unit() -> None:
    fields = re.findall(r"^  (?!rpc|//).*=.*;.*$", (ROOT / PROTO).read_text(), flags=re.M)
    assert len(fields) > 25
    assert [line for line in fields if "//" not in line] == []
    for line in fields:
        if "_ms =" in line:
            assert "milliseconds" in line
        if "_seconds =" in line:
            assert "seconds" in line.split("//")[1]


CODE = ("synera_pb2.py", "synera_pb2.pyi", "synera_pb2_grpc.py")


def as_any_version_writes(code: str) -> str:
    """Take out what differs between versions of the compiler, and nothing of the contract."""
    code = re.sub(r"\d+\.\d+\.\d+|^    \d+,$", "VERSION", code, flags=re.M)
    return code.replace("(object):", ":").replace(": bool =", ": _Optional[bool] =")


def test_the_committed_code_is_that_of_the_proto(tmp_path: Path) -> None:
    generate(tmp_path)
    fresh = (tmp_path / PROTO).parent
    assert {p.name for p in fresh.iterdir()} == set(CODE)
    committed = (ROOT / PROTO).parent
    installed = re.search(r"GRPC_GENERATED_VERSION = '(.*)'", (fresh / CODE[2]).read_text())
    assert installed
    same_version = f"'{installed[1]}'" in (committed / CODE[2]).read_text()
    for name in CODE:
        have, want = (committed / name).read_text(), (fresh / name).read_text()
        if not same_version:
            have, want = as_any_version_writes(have), as_any_version_writes(want)
        assert have == want, f"{name} is stale; run: python -m runtime.wire.generate"


def test_the_committed_code_runs_with_the_oldest_libraries_allowed() -> None:
    stated = (ROOT / "pyproject.toml").read_text()
    for library, pattern, name in (("grpcio", r"VERSION = '(.*)'", CODE[2]), ("protobuf", r"Python Version: (.*)", CODE[0])):
        allowed, needed = (
            re.search(rf'"{library}>=([\d.]+)', stated),
            re.search(pattern, (ROOT / PROTO).with_name(name).read_text()),
        )
        assert allowed and needed  # noqa: PT018
        assert numbers(needed[1]) <= numbers(allowed[1])


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in [*version.split("."), "0", "0"][:3])


@pytest.mark.parametrize(
    ("target", "host", "loopback"),
    [
        ("127.0.0.1:1", "127.0.0.1", True),
        ("127.9.9.9:1", "127.9.9.9", True),
        ("localhost:1", "localhost", True),
        ("[::1]:1", "::1", True),
        ("0.0.0.0:1", "0.0.0.0", False),
        ("[::]:1", "::", False),
        ("192.168.0.4:1", "192.168.0.4", False),
        ("localhost.example.org:1", "localhost.example.org", False),
    ],
)
def test_plaintext_stays_on_this_machine(target: str, host: str, loopback: bool) -> None:
    assert host_of(target) == host
    assert is_loopback(host) is loopback
    check_plaintext(host, encrypted=True, allow_plaintext=False, way_out="")
    check_plaintext(host, encrypted=False, allow_plaintext=True, way_out="")
    if not loopback:
        with pytest.raises(PlaintextRefusedError, match=f"refused plaintext on {re.escape(host)}: .*; use TLS"):
            check_plaintext(host, encrypted=False, allow_plaintext=False, way_out="use TLS")


@pytest.mark.parametrize("target", ["localhost", ":5", "host:", "host:http"])
def test_a_target_needs_host_and_port(target: str) -> None:
    with pytest.raises(ValueError, match="is not HOST:PORT"):
        host_of(target)
