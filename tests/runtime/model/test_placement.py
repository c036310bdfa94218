"""Names of devices and types: what is allowed, what is there, and what `auto` takes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from runtime.errors import PlacementError, SyneraError
from runtime.model.placement import DTYPES, Placement


@pytest.fixture
def cuda_devices(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Make torch say that it has so many CUDA devices."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)


def test_the_default_is_exact_and_runs_everywhere() -> None:
    assert (Placement().torch_device, Placement().torch_dtype) == (torch.device("cpu"), torch.float32)
    assert str(Placement()) == "float32 on cpu"


@pytest.mark.parametrize("dtype", DTYPES)
def test_types_are_torch_s(dtype: str) -> None:
    assert str(Placement(dtype=dtype).torch_dtype) == f"torch.{dtype}"


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "cpu:0", "auto", ""])
def test_an_unknown_device_is_shown_with_the_known_ones(device: str) -> None:
    with pytest.raises(ValueError, match=f"device='{device}' is not one of auto, cpu, cuda, cuda:N"):
        Placement(device)


@pytest.mark.parametrize("dtype", ["float64", "fp16", "int8"])
def test_an_unknown_type_is_shown_with_the_known_ones(dtype: str) -> None:
    with pytest.raises(ValueError, match=f"dtype='{dtype}' is not one of float32, bfloat16, float16"):
        Placement(dtype=dtype)


@pytest.mark.parametrize(
    ("cuda_devices", "device"), [(0, "cuda"), (0, "cuda:0"), (1, "cuda:1"), (2, "cuda:2")], indirect=["cuda_devices"]
)
def test_a_device_that_is_not_there_is_an_error_with_a_way_out(cuda_devices: None, device: str) -> None:
    with pytest.raises(
        PlacementError, match=rf"device='{device}', but torch finds \d CUDA devices .* choose cpu, or auto"
    ) as error:
        Placement(device)
    assert isinstance(error.value, SyneraError)


@pytest.mark.parametrize(("cuda_devices", "device"), [(1, "cuda"), (1, "cuda:0"), (2, "cuda:1")], indirect=["cuda_devices"])
def test_a_device_that_is_there_is_taken(cuda_devices: None, device: str) -> None:
    assert Placement(device, "bfloat16").torch_device == torch.device(device)


@pytest.mark.parametrize(("cuda_devices", "wanted"), [(0, "cpu"), (1, "cuda")], indirect=["cuda_devices"])
def test_auto_takes_cuda_where_it_is_there(cuda_devices: None, wanted: str) -> None:
    assert Placement.of() == Placement.of("auto", "float32") == Placement(wanted)
    assert Placement.of("cpu", "float16") == Placement("cpu", "float16")


def test_a_placement_loads_no_torch() -> None:
    code = "import sys\nfrom runtime.model.placement import Placement\nPlacement()\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"
