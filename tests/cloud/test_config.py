from __future__ import annotations

import re
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
import torch

from cloud.admission import Limits
from cloud.config import ServerConfig
from runtime.errors import PlacementError, SettingError
from runtime.model.placement import Placement

NUMBERS = {
    "port": "0..65535",
    "max_sessions": "1..100000",
    "token_budget": "1..1000000",
    "max_draft_tokens": "1..1024",
    "max_chunk_rows": "1..8192",
    "threads": "1..1024",
    "lease_seconds": "0.01..604800",
    "grace_seconds": "0..3600",
    "drain_seconds": "0..3600",
    "pace_seed": f"0..{2**63 - 1}",
}
WRONG = [nan, inf, -inf, -1, -0.5, 2**64, 10**400, 1e308, True, False, "5", b"5", [5], 5j]
HOSTS = [
    "",
    " ",
    "a b",
    "a\n",
    "127.0.0.1:80",
    "[::1]",
    "unix:/tmp/x",
    "a/b",
    "x" * 20_000,
    "\x1b[31m",
    "ä.de",
    "::1%\n",
    "::g",
    7,
    None,
]


@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:20])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_outside_its_range_is_told_with_name_value_and_range(name: str, value: Any) -> None:
    with pytest.raises(SettingError) as caught:
        ServerConfig(model=Path("any"), **{name: value})
    message = str(caught.value)
    assert re.fullmatch(rf"{name}=.* must be an? (number|integer) in {re.escape(NUMBERS[name])}", message)
    assert len(message) < 200
    assert message.isprintable()


@pytest.mark.parametrize(
    "name", ["port", "max_sessions", "token_budget", "max_draft_tokens", "max_chunk_rows", "threads", "pace_seed"]
)
def test_what_is_counted_is_an_integer(name: str) -> None:
    with pytest.raises(SettingError, match=rf"{name}=2\.5 must be an integer"):
        ServerConfig(model=Path("any"), **{name: 2.5})


@pytest.mark.parametrize("name", NUMBERS)
def test_the_ends_of_a_range_are_allowed(name: str) -> None:
    for end in map(float, NUMBERS[name].split("..")):
        value = end if name.endswith("seconds") else int(NUMBERS[name].split("..")[end > 1])
        assert getattr(ServerConfig(model=Path("any"), **{name: value}), name) == value  # type: ignore[arg-type]


@pytest.mark.parametrize("host", HOSTS, ids=lambda value: repr(value)[:20])
def test_a_host_is_a_name_or_an_address(host: Any) -> None:
    with pytest.raises(SettingError, match=r"^host=") as caught:
        ServerConfig(model=Path("any"), host=host)
    assert len(str(caught.value)) < 200
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "none"}, "engine='none' is not one of torch"),
        ({"engine": "x" * 20_000}, r"engine='x+\.\.\. is not one of torch"),
        ({"engine": ["torch"]}, "engine=.* is not one of torch"),
        ({"dtype": "int4"}, "dtype='int4' is not one of float32"),
        ({"dtype": 32}, "dtype=32 must be a str"),
        ({"device": "gpu"}, "device='gpu' is not one of auto, cpu, cuda"),
        ({"device": None}, "device=None must be a str"),
        ({"model": "folder"}, "model='folder' must be a Path"),
        ({"allow_plaintext": "no"}, "allow_plaintext='no' must be a bool"),
        ({"allow_plaintext": 1}, "allow_plaintext=1 must be a bool"),
        ({"pace": "gpu.json"}, "pace='gpu.json' must be a Pace or None"),
        ({"limits": 7}, "limits=7 must be a Limits"),
        ({"metrics_port": 65536}, "metrics_port=65536 must be an integer in 0..65535"),
        ({"metrics_port": True}, "metrics_port=True must be an integer"),
        ({"metrics_host": "a b"}, "metrics_host='a b' is not a name or an address"),
        ({"metrics_host": None}, "metrics_host=None must be a str"),
        ({"tls_key": Path("key.pem")}, "TLS needs both"),
        ({"tls_certificate": Path("cert.pem")}, "TLS needs both"),
        ({"tls_ca": Path("ca.pem")}, "tls_ca asks clients for certificates, which needs TLS: give a certificate and its key"),
        ({"tls_ca": "ca.pem"}, "tls_ca='ca.pem' must be a Path or None"),
        ({"tokens": "tokens"}, "tokens='tokens' must be a Path or None"),
        ({"reflection": "no"}, "reflection='no' must be a bool"),
        ({"connections": 5}, "connections=5 must be a Connections"),
        ({"tls_key": "key.pem", "tls_certificate": Path("cert.pem")}, "tls_key='key.pem' must be a Path or None"),
    ],
)
def test_the_config_is_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        ServerConfig(**({"model": Path("any")} | options))


@pytest.mark.parametrize(("lease", "sweep"), [(0.4, 0.1), (8.0, 2.0), (60.0, 2.5), (604_800, 2.5)])
def test_sweeps_come_several_a_lease_and_several_while_an_unused_session_is_kept(lease: float, sweep: float) -> None:
    assert ServerConfig(model=Path("any"), lease_seconds=lease).sweep_seconds == sweep
    patient = Limits(unused_seconds=604_800)
    assert ServerConfig(model=Path("any"), lease_seconds=lease, limits=patient).sweep_seconds == min(lease / 4, 30.0)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1:5"),
        ("::1", "[::1]:5"),
        ("fe80::1%eth0", "[fe80::1%eth0]:5"),
        ("verifier-1.example.org", "verifier-1.example.org:5"),
    ],
)
def test_an_address_names_host_and_port(host: str, address: str) -> None:
    assert ServerConfig(model=Path("any"), host=host).address(5) == address


def test_auto_takes_cuda_where_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = ServerConfig(model=Path("any"), device="auto", dtype="bfloat16")
    assert config.placement == Placement("cpu", "bfloat16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert config.placement == Placement("cuda", "bfloat16")


def test_a_device_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PlacementError, match="device='cuda:1', but torch finds 0 CUDA devices"):
        ServerConfig(model=Path("any"), device="cuda:1")
