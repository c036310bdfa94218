"""Hidden states on the wire: what comes back, to what error, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SettingError
from runtime.wire.sizes import PRECISIONS, row_bytes
from runtime.wire.tensors import decoded, encoded, quantised


@given(
    rows=st.integers(0, 5),
    hidden=st.integers(1, 40),
    scale=st.floats(1e-6, 1e6),
    precision=st.sampled_from(PRECISIONS),
    seed=st.integers(0, 2**31),
)
def test_rows_come_back_within_their_precision(rows: int, hidden: int, scale: float, precision: str, seed: int) -> None:
    states = torch.randn(rows, hidden, generator=torch.Generator().manual_seed(seed)) * scale
    data = encoded(states, precision)
    assert len(data) == rows * row_bytes(hidden, precision)
    back = decoded(data, hidden, precision)
    if precision == "fp32":
        assert torch.equal(back, states)
    elif precision == "bf16":
        assert torch.equal(back, states.bfloat16().float())
    elif rows:
        step = states.abs().amax(1, keepdim=True) / 127
        assert ((back - states).abs() <= 0.501 * step + 1e-12).all()
    each = [encoded(row[None], precision) for row in states]  # how rows are grouped changes nothing
    assert b"".join(each) == data
    assert torch.equal(quantised(states, precision), back)


def test_a_row_of_zeros_and_the_largest_number_survive_int8() -> None:
    states = torch.tensor([[0.0, 0.0], [3.0e38, -3.0e38]])
    assert torch.allclose(quantised(states, "int8"), states)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_of_another_type_travel_and_come_back_in_it(dtype: torch.dtype) -> None:
    states = torch.randn(3, 8).to(dtype)
    assert torch.equal(quantised(states, "fp32"), states)


@pytest.mark.parametrize(
    ("data", "precision", "said"),
    [
        (b"123", "fp32", "no whole rows"),
        (b"\0" * 8, "fp64", "precision='fp64'"),
        (torch.tensor([1.0, float("nan")]).numpy().tobytes(), "fp32", "not finite"),
        (torch.tensor([float("inf")]).numpy().tobytes() + b"\1\1", "int8", "not finite"),
    ],
)
def test_what_is_no_states_is_refused(data: bytes, precision: str, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        decoded(data, 2, precision)
