"""Hidden states as bytes: what travels between the two parts of a split model, and what the other end reads of it.

What does not live here: sizes (sizes.py), messages (synera.proto) and who sends what.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from runtime.errors import SettingError
from runtime.settings import one_of
from runtime.wire.sizes import PRECISIONS, row_bytes

_MOST = 127.0  # symmetric: -128 is never sent
_SCALE = 4  # bytes


def encoded(states: Tensor, precision: str) -> bytes:
    """Return rows of numbers as they travel, little-endian; each row for itself, so that it does not matter how rows are grouped.

    Args:
        states: [rows, hidden], of any float type and device.
        precision: one of `PRECISIONS`. bf16 rounds to nearest even; int8 is x / scale, rounded to nearest even, after the
            row's scale, which is max |x| / 127.

    Raises:
        SettingError: there is no such precision.
    """
    one_of("precision", precision, PRECISIONS)
    values = states.float().cpu()
    if precision == "fp32":
        return _raw(values)
    if precision == "bf16":
        return _raw(values.bfloat16())
    scales = values.abs().amax(1, keepdim=True) / _MOST
    small = (values / scales.where(scales > 0, 1.0)).round_().clamp_(-_MOST, _MOST).to(torch.int8)
    laid = np.empty((len(values), row_bytes(values.shape[1], precision)), np.uint8)
    laid[:, :_SCALE] = np.frombuffer(_raw(scales), np.uint8).reshape(-1, _SCALE)
    laid[:, _SCALE:] = small.numpy().view(np.uint8)
    return laid.tobytes()


def decoded(data: bytes, hidden: int, precision: str) -> Tensor:
    """Read rows of numbers, float32 [rows, hidden] on the CPU.

    Args:
        data: as :func:`encoded` gives it.
        hidden: numbers of a row.
        precision: one of `PRECISIONS`.

    Raises:
        SettingError: there is no such precision, the bytes are not whole rows, or a number is not finite.
    """
    one_of("precision", precision, PRECISIONS)
    size = row_bytes(hidden, precision)
    if len(data) % size:
        raise SettingError(f"{len(data)} bytes are no whole rows of {size} bytes ({hidden} numbers in {precision})")
    if not data:
        return torch.empty(0, hidden)
    flat = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, size)
    if precision == "fp32":
        rows = flat.view(torch.float32)
    elif precision == "bf16":
        rows = flat.view(torch.bfloat16).float()
    else:
        scales = torch.frombuffer(bytearray(flat[:, :_SCALE].numpy().tobytes()), dtype=torch.float32)
        rows = flat[:, _SCALE:].view(torch.int8).float() * scales[:, None]
    if not rows.isfinite().all():
        raise SettingError("a hidden state has a number that is not finite")
    return rows


def quantised(states: Tensor, precision: str) -> Tensor:
    """Return what the other end reads of states [rows, hidden] that travel in a precision, in their own type and on their device."""
    return decoded(encoded(states, precision), states.shape[1], precision).to(states)


def _raw(values: Tensor) -> bytes:
    contiguous = values.contiguous()
    return (contiguous.view(torch.int16) if values.dtype == torch.bfloat16 else contiguous).numpy().tobytes()
