"""Hidden states as they travel: the precisions, and what the other end reads back of each.

What does not live here: the bytes on the wire (runtime/wire/) and what computes or reads states.
"""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.settings import one_of

PRECISIONS = ("fp32", "bf16", "int8")
"""What a state may travel in."""
_STEPS = 127  # of int8 on either side of zero


def quantised(states: Tensor, precision: str) -> Tensor:
    """Return what the other end reads back of states that were sent in a precision.

    fp32 changes no float32. bf16 rounds each value to the nearest bfloat16. int8 is symmetric, with one float32 scale a row,
    the row's largest magnitude / 127, and rounds half to even; a row of zeros stays zeros.

    Args:
        states: [rows, hidden], a floating type, finite.
        precision: one of :data:`PRECISIONS`.

    Returns:
        [rows, hidden], on the device and in the type of `states`.

    Raises:
        SettingError: there is no such precision.
    """
    one_of("precision", precision, PRECISIONS)
    if precision == "fp32":
        return states.to(torch.float32).to(states.dtype)
    if precision == "bf16":
        return states.to(torch.bfloat16).to(states.dtype)
    rows = states.to(torch.float32)
    scales = rows.abs().amax(-1, keepdim=True) / _STEPS
    levels = torch.where(scales > 0, rows / scales, 0.0).round().clamp(-_STEPS, _STEPS).to(torch.int8)
    return (levels.to(torch.float32) * scales).to(states.dtype)
