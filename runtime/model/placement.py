"""Where a model runs and in which arithmetic: the one pair of words that scripts, configs and loaders share.

What does not live here: loading (loading.py). torch is imported only when it is asked for, so configs stay light.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from runtime.errors import PlacementError, SettingError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "bfloat16", "float16")
"""Arithmetic types that models run in."""
_DEVICES = re.compile(r"cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class Placement:
    """A device and an arithmetic type.

    Raises:
        SettingError: a name that is not allowed.
        PlacementError: CUDA is asked for and this machine has none, or not so many devices.
    """

    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    dtype: str = "float32"
    """One of :data:`DTYPES`; float32 makes results independent of the batch to about 1e-6."""

    def __post_init__(self) -> None:
        if not _DEVICES.fullmatch(self.device):
            raise SettingError(
                f"device={self.device!r} is not one of auto, cpu, cuda, cuda:N; auto takes CUDA where it is there"
            )
        if self.dtype not in DTYPES:
            raise SettingError(f"dtype={self.dtype!r} is not one of {', '.join(DTYPES)}")
        if self.device != "cpu":
            self._require_cuda()

    def _require_cuda(self) -> None:
        import torch

        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (self.torch_device.index or 0) >= found:
            raise PlacementError(
                f"device={self.device!r}, but torch finds {found} CUDA devices on this machine; choose cpu, or auto, "
                "which takes CUDA where it is there"
            )

    @classmethod
    def of(cls, device: str = "auto", dtype: str = "float32") -> Placement:
        """Resolve `auto` to CUDA where it is there, else to the CPU; other devices are taken as they are.

        Raises:
            SettingError, PlacementError: see the class.
        """
        if device == "auto":
            import torch

            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(device, dtype)

    @property
    def torch_device(self) -> torch.device:
        """The device as torch names it."""
        import torch

        return torch.device(self.device)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The arithmetic type as torch names it."""
        import torch

        return cast("torch.dtype", getattr(torch, self.dtype))

    def __str__(self) -> str:
        return f"{self.dtype} on {self.device}"


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; what moves to CUDA waits for none of the work that is queued there."""
    return tensor if tensor.device == device else tensor.to(device, non_blocking=device.type == "cuda")
