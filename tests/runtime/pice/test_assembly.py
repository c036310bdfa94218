"""An answer of parts: in order, each once, however they come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SettingError
from runtime.pice.assembly import Assembly


@given(st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=6))
def test_parts_are_told_in_order_and_once(order: list[int], again: list[int]) -> None:
    assembly, said = Assembly(), ""
    for number in [*order[:3], *again, *order]:
        said += assembly.add(number, f"part{number}")
        assert said == " ".join(f"part{n}" for n in range(assembly.told))
    assert assembly.told == 6


def test_a_part_is_told_when_those_before_it_are_there() -> None:
    assembly = Assembly("\n")
    assert assembly.add(1, "b") == ""
    assert assembly.add(0, " a ") == "a\nb"
    assert assembly.add(2, "") == ""
    assert assembly.add(3, "d") == "\nd"
    assert assembly.add(0, "late") == ""


def test_a_number_below_zero_is_named() -> None:
    with pytest.raises(SettingError, match="number=-1"):
        Assembly().add(-1, "a")
