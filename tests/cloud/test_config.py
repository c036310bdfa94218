from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cloud.config import ServerConfig
from runtime.errors import PlacementError
from runtime.model.placement import Placement


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 70000}, "port=70000 is outside 0..65535"),
        ({"engine": "none"}, "engine='none' is not one of torch"),
        ({"dtype": "int4"}, "dtype='int4' is not one of float32"),
        ({"device": "gpu"}, "device='gpu' is not one of auto, cpu, cuda"),
        ({"max_sessions": 0}, "max_sessions=0 must be at least 1"),
        ({"threads": 0}, "threads=0 must be at least 1"),
        ({"lease_seconds": 0.0}, "lease_seconds=0.0 must be above 0"),
        ({"grace_seconds": -1.0}, "grace_seconds=-1.0 at least 0"),
        ({"tls_key": Path("key.pem")}, "TLS needs both"),
    ],
)
def test_the_config_is_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerConfig(model=Path("any"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("host", "address"), [("127.0.0.1", "127.0.0.1:5"), ("::1", "[::1]:5")])
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
