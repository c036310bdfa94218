from __future__ import annotations

import ipaddress
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import PlaintextRefusedError, SettingError
from runtime.sampling import MOST_IDS, Proposal, SampledDraft, Sampling
from runtime.wire import synera_pb2 as pb
from runtime.wire.address import Address, check_plaintext, is_loopback
from runtime.wire.generate import PROTO, ROOT, generate
from runtime.wire.sampled import proposals_message, read_sampled, read_sampling, sampling_message
from runtime.wire.sizes import (
    GREEDY_HEADER_BYTES,
    KEY_CHARACTERS,
    PRECISIONS,
    SESSION_ID_CHARACTERS,
    TOKENIZER_HASH_CHARACTERS,
    forward_request_bytes,
    forward_response_bytes,
    longest_forward_bytes,
    longest_request_bytes,
    open_request_bytes,
    open_response_bytes,
    row_bytes,
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


@given(U32, U32, st.integers(0, 40), st.integers(1, 50), st.sampled_from(PRECISIONS), st.integers(0, 40), U32, MS)
def test_forward_sizes_are_protobufs_own(
    seq: int, prefix: int, rows: int, hidden: int, precision: str, returned: int, load: int, ms: float
) -> None:
    states, number = b"x" * (rows * row_bytes(hidden, precision)), PRECISIONS.index(precision)
    assert pb.Precision.Name(number) == precision.upper()
    request = pb.ForwardRequest(
        session_id=SESSION, seq=seq, prefix_length=prefix, states=states, precision=number, returned=returned
    )
    assert forward_request_bytes(seq, prefix, rows, hidden, precision, returned) == request.ByteSize()
    assert request.ByteSize() <= longest_forward_bytes(rows, hidden)
    times = dict.fromkeys(("queue_ms", "compute_ms", "compute_share_ms", "forward_ms", "token_ms"), ms)
    response = pb.ForwardResponse(seq=seq, states=states, load=load, **times)
    assert forward_response_bytes(seq, rows, hidden, precision, load) == response.ByteSize()


@st.composite
def sampled_drafts(draw: st.DrawFn) -> tuple[list[int], SampledDraft]:
    """A draft and how it was sampled."""
    draft, proposals = [], []
    for _ in range(draw(st.integers(0, 16))):
        ids = draw(st.lists(U32, min_size=1, max_size=MOST_IDS, unique=True))
        shares = draw(st.lists(st.floats(1e-7, 1), min_size=len(ids), max_size=len(ids)))
        proposals.append(Proposal.rounded(ids, shares))
        draft.append(draw(st.sampled_from(proposals[-1].ids)))
    settings = (
        draw(st.floats(0.01, 100)),
        draw(st.floats(0.001, 1)),
        draw(st.integers(0, 2**24)),
        draw(st.integers(0, 2**64 - 1)),
    )
    return draft, SampledDraft(Sampling(*settings), tuple(proposals))


@given(U32, IDS, sampled_drafts(), U32)
def test_what_is_sampled_travels_unchanged_and_in_as_many_bytes_as_are_counted(
    prefix: int, context: list[int], case: tuple[list[int], SampledDraft], seq: int
) -> None:
    draft, sampled = case
    message = pb.VerifyRequest(
        session_id=SESSION,
        seq=seq,
        prefix_length=prefix,
        context=context,
        draft=draft,
        sampling=sampling_message(sampled.sampling),
        proposals=proposals_message(sampled),
    )
    assert verify_request_bytes(prefix, context, draft, seq, sampled) == message.ByteSize()
    there = pb.VerifyRequest.FromString(message.SerializeToString())
    assert read_sampled(there) == sampled
    assert message.ByteSize() < longest_request_bytes(len(context), 16) or max([0, *context]) > 2**28


def test_greedy_requests_are_what_they_were_before_there_was_sampling() -> None:
    fields = {"session_id": SESSION, "seq": 2, "prefix_length": 300, "context": [5], "draft": [7, 300]}
    greedy = pb.VerifyRequest(**fields, sampling=sampling_message(None), proposals=proposals_message(None))
    assert greedy.SerializeToString() == pb.VerifyRequest(**fields).SerializeToString()
    assert greedy.SerializeToString()[34:] == bytes.fromhex("100218ac022201052a0307ac02")
    assert read_sampled(greedy) is None
    assert read_sampling(pb.GenerateRequest(prompt=[1])) is None


@given(U32, st.lists(U32, max_size=40), st.lists(U32, min_size=1, max_size=16), U32)
def test_a_greedy_check_takes_a_header_and_at_most_eight_bytes_a_token(
    prefix: int, context: list[int], draft: list[int], seq: int
) -> None:
    request = verify_request_bytes(prefix, context, draft, seq)
    assert request <= GREEDY_HEADER_BYTES + 5 * len([*context, *draft]) <= GREEDY_HEADER_BYTES + 8 * len([*context, *draft])
    small = [[token % 2**21 for token in tokens] for tokens in (context, draft)]
    assert verify_request_bytes(prefix, *small, seq) <= GREEDY_HEADER_BYTES + 3 * len([*context, *draft])


ONE = {"temperature": 1.0, "top_p": 1.0}


@pytest.mark.parametrize(
    ("sampling", "proposals", "message"),
    [
        (None, {}, "proposals without sampling"),
        (None, {"sizes": [1], "ids": [7]}, "proposals without sampling"),
        ({}, {"sizes": [1], "ids": [7]}, "temperature=0 is greedy"),
        ({"temperature": float("nan"), "top_p": 1.0}, {"sizes": [1], "ids": [7]}, "temperature=nan must be"),
        ({"temperature": 1.0}, {"sizes": [1], "ids": [7]}, "top_p=0 leaves no token"),
        (ONE | {"top_k": 2**32 - 1}, {"sizes": [1], "ids": [7]}, "top_k=4294967295 must be"),
        (ONE, None, "0 proposals for a draft of 1 tokens"),
        (ONE, {"sizes": [1, 1], "ids": [7, 7]}, "2 proposals for a draft of 1 tokens"),
        (ONE, {"sizes": [0]}, "proposals of 0 token ids come with 0 ids and 0 weights"),
        (ONE, {"sizes": [2], "ids": [7]}, "proposals of 2 token ids come with 1 ids and 0 weights"),
        (ONE, {"sizes": [1], "ids": [7], "weights": [1]}, "come with 1 ids and 1 weights"),
        (ONE, {"sizes": [2**32 - 1], "ids": [7]}, "proposals of 4294967295 token ids come with 1 ids"),
        (ONE, {"sizes": [2], "ids": [7, 8], "weights": [0]}, "each at least 1"),
        (ONE, {"sizes": [2], "ids": [7, 8], "weights": [65536]}, "each at least 1"),
        (ONE, {"sizes": [2], "ids": [7, 8], "weights": [2**32 - 1]}, "each at least 1"),
        (ONE, {"sizes": [2], "ids": [7, 7], "weights": [1]}, "must differ"),
        (ONE, {"sizes": [33], "ids": [*range(33)], "weights": [1] * 32}, "a proposal of 33 token ids must have 1..32"),
        (ONE, {"sizes": [2], "ids": [8, 9], "weights": [1]}, "draft token 0, 7, has no weight in its own proposal"),
    ],
)
def test_sampling_that_makes_no_sense_is_named_in_one_line(
    sampling: dict[str, Any] | None, proposals: dict[str, Any] | None, message: str
) -> None:
    parts: dict[str, Any] = {}
    if sampling is not None:
        parts["sampling"] = pb.Sampling(**sampling)
    if proposals is not None:
        parts["proposals"] = pb.Proposals(**proposals)
    with pytest.raises(SettingError, match=message) as raised:
        read_sampled(pb.VerifyRequest(draft=[7], **parts))
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300


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
    key = "0" * KEY_CHARACTERS
    assert open_request_bytes() == pb.OpenRequest(tokenizer_hash="0" * TOKENIZER_HASH_CHARACTERS, key=key).ByteSize()
    assert open_request_bytes(64) == pb.OpenRequest(tokenizer_hash="0" * 64, key=key).ByteSize()
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
    ("target", "host", "loopback", "uri"),
    [
        ("127.0.0.1:1", "127.0.0.1", True, "ipv4:127.0.0.1:1"),
        ("127.9.9.9:65535", "127.9.9.9", True, "ipv4:127.9.9.9:65535"),
        ("LocalHost:1", "localhost", True, "dns:///localhost:1"),
        ("[::1]:1", "::1", True, "ipv6:[::1]:1"),
        ("[0:0:0:0:0:0:0:1]:1", "::1", True, "ipv6:[::1]:1"),
        ("0.0.0.0:1", "0.0.0.0", False, "ipv4:0.0.0.0:1"),
        ("[::]:1", "::", False, "ipv6:[::]:1"),
        ("192.168.0.4:1", "192.168.0.4", False, "ipv4:192.168.0.4:1"),
        ("localhost.example.org:443", "localhost.example.org", False, "dns:///localhost.example.org:443"),
        ("gpu_1:50051", "gpu_1", False, "dns:///gpu_1:50051"),
        ("127.0.0.1.example:1", "127.0.0.1.example", False, "dns:///127.0.0.1.example:1"),
    ],
)
def test_plaintext_stays_on_this_machine(target: str, host: str, loopback: bool, uri: str) -> None:
    address = Address.parse(target)
    assert (address.host, address.uri) == (host, uri)
    assert is_loopback(host) is loopback
    check_plaintext(host, encrypted=True, allow_plaintext=False, way_out="")
    check_plaintext(host, encrypted=False, allow_plaintext=True, way_out="")
    if not loopback:
        with pytest.raises(PlaintextRefusedError, match=f"refused plaintext on {re.escape(host)}: .*; use TLS"):
            check_plaintext(host, encrypted=False, allow_plaintext=False, way_out="use TLS")


NO_ADDRESSES = (
    *("", "localhost", ":5", "host:", "host:http", "[::1]", "[::1]5", "[::1]:", "[]:5", "[localhost]:5", "[127.0.0.1]:5"),
    *("host:0", "host:00", "host:080", "host:-1", "host:+5", "host:65536", "127.0.0.1:99999", "127.0.0.1:4294967297"),
    *(
        "host: 5",
        "host:5 ",
        " host:5",
        "host:5\n",
        "ho st:5",
        "lo\0calhost:5",
        "host:5\x1b[2J",
        "\u202ehost:5",
        "höst:5",
        "host:\u0665",
    ),
    *("::1:5", "fe80::1:5", "[::1%lo]:5", "[::1]:5:5", "[[::1]]:5", "127.0.0.1:5:5", "h:5,i:6"),
    *("127.1:5", "127.0.1:5", "0x7f.1:5", "0x7f.0.0.1:5", "0x7f000001:5", "2130706433:5", "0177.0.0.1:5", "127.0.0.01:5"),
    *("127.0.0.256:5", "127.0.0.1.:5", "1.2.3.4.5:5", "example.0x:5", "example.7:5"),
    *("localhost.:5", ".localhost:5", "local..host:5", "-host:5", "host-:5", "a.-b:5"),
    *("unix:/x", "unix:///tmp/x:5", "unix-abstract:x:5", "dns:///h:1", "ipv4:127.0.0.1:5", "vsock:1:5", "xds:///h:5"),
    *("http://h:5", "//h:5", "h:5/path", "h:5?x", "h:5#x", "u@h:5", "u:p@h:5"),
)


@pytest.mark.parametrize("target", NO_ADDRESSES)
def test_only_a_host_and_a_port_are_an_address(target: str) -> None:
    with pytest.raises(SettingError, match="is not HOST:PORT") as error:
        Address.parse(target)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("target", ["h" * 64 + ":5", ".".join(["h" * 60] * 5) + ":5", "h" * 100_000, None, 5, b"localhost:5"])
def test_what_is_far_from_an_address_is_refused_in_a_short_line(target: Any) -> None:
    with pytest.raises(SettingError, match="is not HOST:PORT") as error:
        Address.parse(target)
    assert len(str(error.value)) < 300


HOSTS = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda ip: f"[{ip.exploded}]"),
    st.from_regex(r"[0-9a-fA-Fx.:\[\]%-]{1,20}", fullmatch=True),
    st.lists(st.from_regex(r"[A-Za-z0-9_x-]{1,8}", fullmatch=True), min_size=1, max_size=4).map(".".join),
    st.text(max_size=20),
)
PORTS = st.integers(-10, 10**10).map(str) | st.from_regex(r"[0-9 +x_-]{0,7}") | st.text(max_size=5)


@given(st.builds("{}:{}".format, HOSTS, PORTS) | st.text(max_size=40))
def test_an_address_is_what_every_resolver_takes_it_for_or_none(target: str) -> None:
    try:
        address = Address.parse(target)
    except SettingError:
        return
    assert Address.parse(str(address)) == address
    assert 1 <= address.port <= 65535
    assert address.uri.endswith(f":{address.port}")
    assert address.host.isascii()
    try:
        [*_, (sent_to, *_)] = socket.getaddrinfo(address.host, address.port, flags=socket.AI_NUMERICHOST)[0]
    except socket.gaierror:  # a name, to be looked up as such
        assert address.uri == f"dns:///{address}"
        assert is_loopback(address.host) == (address.host == "localhost")
    else:
        assert address.uri.startswith("ip")
        assert is_loopback(address.host) == ipaddress.ip_address(sent_to).is_loopback
