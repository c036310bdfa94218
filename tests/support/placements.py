"""Where tests about values run, and how near to exact arithmetic each type comes: the one list of placements."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from runtime.model.placement import Placement

if TYPE_CHECKING:  # tests without models do not wait for torch
    from torch import Tensor

    from runtime.model.decoder import Decoder

NO_CUDA = "torch finds no CUDA device on this machine"
RELATIVE = {"bfloat16": 0.08, "float16": 0.015}
"""Most that a result may be off, as a share of its root mean square. The decoder, on random models of three layers, came to
0.045 and 0.008 at most, transformers over a whole sequence to 0.038 and 0.006; a wrong formula is off by far more."""


def named(name: str) -> Placement:
    """The placement of a name like `cuda-bfloat16`; skips the test where it cannot run."""
    import torch

    device, dtype = name.split("-")
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip(NO_CUDA)
    return Placement(device, dtype)


def _parameter(name: str) -> Any:
    return pytest.param(name, marks=[pytest.mark.cuda] if name.startswith("cuda") else [])


PLACEMENTS = [_parameter(f"cpu-{dtype}") for dtype in ("float32", "bfloat16", "float16")] + [
    _parameter(f"cuda-{dtype}") for dtype in ("float32", "bfloat16")
]
"""What the fixture `placement` goes through."""
FLOAT32_AND_BFLOAT16 = [_parameter(f"{device}-{dtype}") for device in ("cpu", "cuda") for dtype in ("float32", "bfloat16")]
"""The same without float16, for slower tests."""
OTHER_PLACEMENTS = [_parameter(name) for name in ("cpu-bfloat16", "cuda-float32", "cuda-bfloat16")]
"""Those besides float32 on the CPU, for what is tested there at length."""


def apart(got: Tensor, wanted: Tensor) -> float:
    """Root mean square of the difference, as a share of that of `wanted`."""
    difference, wanted = got.float().cpu() - wanted.float().cpu(), wanted.float().cpu()
    return float(difference.square().mean().sqrt() / wanted.square().mean().sqrt())


def assert_near(got: Tensor, wanted: Tensor, dtype: str, float32_limit: float = 1e-4) -> None:
    """Hold a result to its type: every entry in float32, the root mean square in the others."""
    assert got.shape == wanted.shape
    if dtype == "float32":
        assert (got.float().cpu() - wanted.float().cpu()).abs().max().item() <= float32_limit
    else:
        assert apart(got, wanted) <= RELATIVE[dtype]


@contextmanager
def pretended_device(folder: Path, dtype: str = "bfloat16") -> Iterator[Decoder]:
    """A decoder on a device without memory: within, mixing it with the CPU raises, and so does reading a value back."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    from runtime.model.loading import load_decoder

    def read_back(tensor: Tensor) -> int:
        assert tensor.device.type == "cpu", "a value is read back from the device: the CPU would wait for it"
        return 0

    with mock.patch.object(Placement, "torch_device", torch.device("meta")):
        decoder = load_decoder(folder, Placement(dtype=dtype))
    with FakeTensorMode(allow_non_fake_inputs=True), mock.patch.object(FakeTensor, "__int__", read_back):
        yield decoder
