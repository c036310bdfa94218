from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from runtime.errors import SettingError
from runtime.hat.states import PRECISIONS, quantised


def _states(rows: int = 50, seed: int = 0) -> Tensor:
    """Rows of magnitudes from 1e-4 to 1e4."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 16, generator=generator) * torch.logspace(-4, 4, rows)[:, None]


def test_fp32_is_read_back_bit_by_bit() -> None:
    assert torch.equal(quantised(_states(), "fp32"), _states())


def test_bf16_is_read_back_as_the_nearest_of_eight_bits() -> None:
    read = quantised(_states(), "bf16")
    assert ((read - _states()).abs() <= _states().abs() * 2**-8).all()
    assert torch.equal(read, read.bfloat16().float())
    assert not torch.equal(read, _states())


def test_int8_is_off_by_half_a_step_of_its_row_at_most() -> None:
    states, read = _states(), quantised(_states(), "int8")
    step = states.abs().amax(-1, keepdim=True) / 127
    assert ((read - states).abs() <= step * 0.5001).all()
    assert all(len(row.unique()) > 5 for row in read), "small rows have steps of their own"


def test_the_largest_of_a_row_is_read_back_as_it_was_and_halves_go_to_even() -> None:
    read = quantised(torch.tensor([[127.0, 0.5, 1.5, -2.5, -127.0]]), "int8")
    assert read.tolist() == [[127.0, 0.0, 2.0, -2.0, -127.0]]


@pytest.mark.parametrize("value", [0.0, 1e-44])
def test_a_row_without_a_scale_is_read_back_as_zeros(value: float) -> None:
    read = quantised(torch.tensor([[value] * 3, [1.0, 2.0, 3.0]]), "int8")
    assert read[0].tolist() == [0.0, 0.0, 0.0]
    assert read[1].tolist() == pytest.approx([1, 2, 3], rel=0.01)


@given(st.integers(0, 2**31), st.sampled_from(PRECISIONS))
def test_a_row_is_read_back_alike_whatever_it_travels_with_and_however_often(seed: int, precision: str) -> None:
    states = _states(7, seed)
    read = quantised(states, precision)
    assert torch.equal(read[3:5], quantised(states[3:5], precision))
    assert torch.allclose(quantised(read, precision), read, rtol=1e-6)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_type_of_the_states_is_kept_and_they_are_not_touched(precision: str, dtype: torch.dtype) -> None:
    states = _states().to(dtype)
    kept = states.clone()
    assert quantised(states, precision).dtype == dtype
    assert torch.equal(states, kept)
    assert quantised(torch.empty(0, 4, dtype=dtype), precision).shape == (0, 4)


def test_another_precision_is_refused() -> None:
    with pytest.raises(SettingError, match="precision='int4' is not one of fp32, bf16, int8"):
        quantised(_states(), "int4")
