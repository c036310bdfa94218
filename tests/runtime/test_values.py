"""Values: dataclasses with slots, equal by what they hold unless they are to be told apart."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from runtime.values import value


@value()
class Pair:
    left: int
    right: int = 2


@value(eq=False)
class Thing:
    name: str


def test_a_value_is_a_dataclass() -> None:
    assert [f.name for f in fields(Pair)] == ["left", "right"]  # type: ignore[arg-type]
    assert Pair(1) == Pair(1, 2) != Pair(1, 3)
    assert replace(Pair(1), right=5) == Pair(1, 5)  # type: ignore[type-var]
    assert repr(Pair(1)) == "Pair(left=1, right=2)"


def test_a_value_has_room_for_its_fields_alone() -> None:
    with pytest.raises(AttributeError, match="middle"):
        Pair(1).middle = 3  # type: ignore[attr-defined]


def test_values_may_be_told_apart_and_remembered_by_identity() -> None:
    one, other = Thing("a"), Thing("a")
    assert one != other
    assert len({one, other}) == 2
