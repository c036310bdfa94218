"""Rows, and everything that is made of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synera_env import Feature, Knob, Preference, Schema, View

LEVEL = Knob("level", -2.0, 2.0, "volt", "how much", (0.0, 1.0))
COUNT = Knob("count", 2, 5, "pieces", "how many", (2, 5), integer=True)
SEEN = Feature("seen", "metres", 0.0, 10.0, "how far", lambda v: v.point)
PAIR = Feature("pair", "share", 0.0, 1.0, "two of a kind", lambda v: [len(v.records), 0.25], size=2)


@dataclass(frozen=True)
class Settings:
    level: float = 0.0
    count: int = 2


def schema(
    knobs: tuple[Knob, ...] = (LEVEL, COUNT), features: tuple[Feature, ...] = (SEEN, PAIR), system: str = "test", **more: Any
) -> Schema:
    return Schema(system, knobs, features, make_knobs=Settings, first_knobs=Settings(), presets=more.pop("presets", {}), **more)


# ---------------------------------------------------------------- rows


@given(value=st.floats(-2, 2))
def test_a_knob_s_share_is_the_inverse_of_its_value(value: float) -> None:
    assert LEVEL.value(LEVEL.share(value)) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("value", [2, 3, 4, 5])
def test_an_integer_lies_at_the_middle_of_its_part(value: int) -> None:
    assert COUNT.share(value) == (value - 2 + 0.5) / 4
    assert COUNT.value(COUNT.share(value)) == value


def test_the_ends_of_the_range_are_the_bounds() -> None:
    assert (LEVEL.value(0.0), LEVEL.value(1.0), COUNT.value(0.0), COUNT.value(1.0)) == (-2.0, 2.0, 2, 5)


def test_a_negative_integer_counts_from_the_end() -> None:
    assert [COUNT.value(COUNT.share(index)) for index in (-1, -2)] == [5, 4]


def test_a_knob_with_one_value_has_a_place() -> None:
    only = Knob("only", 0, 0, "exit", "the last", (0,), integer=True)
    assert (only.value(0.0), only.value(1.0), only.share(0), only.share(-1)) == (0, 0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": 3.0}, "knob level: low=3.0 is above high=2.0"),
        ({"grid": (0.0, 7.0)}, r"knob level: its grid \(0.0, 7.0\) must hold values in -2..2"),
        ({"grid": ()}, "knob level: its grid"),
    ],
)
def test_rows_that_make_no_sense_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(LEVEL, **changes)


@pytest.mark.parametrize("changes", [{"scale": 0.0}, {"scale": -1.0}, {"scale": math.inf}, {"center": math.nan}])
def test_a_feature_that_cannot_be_scaled_is_named(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="feature seen: center="):
        replace(SEEN, **changes)


def test_two_rows_of_a_name_are_refused() -> None:
    with pytest.raises(ValueError, match="more than one row is named level"):
        schema((LEVEL, replace(COUNT, name="level")))
    with pytest.raises(ValueError, match="more than one row is named seen"):
        schema(features=(SEEN, SEEN))


def test_a_search_over_no_knob_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a search names \['levle'\], which is no knob"):
        schema(searches=({"levle": 2},))


# ---------------------------------------------------------------- observation


def test_entries_follow_the_rows() -> None:
    made = schema()
    assert made.entries == ("seen", "pair[0]", "pair[1]")
    assert made.observation_space.low.tolist() == [0, 0, 0]
    assert made.observation_space.high.tolist() == [10, 1, 1]
    assert made.encode(3.5, [object()], Preference()).tolist() == [3.5, 1.0, 0.25]


def test_an_observation_is_clipped_to_its_rows() -> None:
    assert schema().encode(1e9, [0] * 5, Preference()).tolist() == [10.0, 1.0, 0.25]


def test_a_row_that_yields_the_wrong_number_is_an_error() -> None:
    short = replace(PAIR, extract=lambda v: [0.5])
    with pytest.raises(ValueError, match="2 values for 3 entries"):
        schema(features=(SEEN, short)).encode(1.0, [], Preference())


def test_rows_of_a_group_lie_interleaved() -> None:
    a, b = (
        replace(PAIR, name=n, group="of one", extract=e) for n, e in (("a", lambda v: [0.1, 0.2]), ("b", lambda v: [0.3, 0.4]))
    )
    made = schema(features=(SEEN, a, replace(b, high=0.35), PAIR))
    assert made.entries == ("seen", "a[0]", "b[0]", "a[1]", "b[1]", "pair[0]", "pair[1]")
    assert made.high.tolist() == pytest.approx([10, 1, 0.35, 1, 0.35, 1, 1])
    assert made.encode(2.0, [], Preference()).tolist() == pytest.approx([2.0, 0.1, 0.3, 0.2, 0.35, 0.0, 0.25])
    assert [line.split("|")[1].strip() for line in made.feature_table().splitlines()[2:]] == [
        "0",
        "1, 3 .. 3",
        "2, 4 .. 4",
        "5-6",
    ]


def test_scales_follow_the_entries() -> None:
    a, b = (replace(PAIR, name=n, group="of one", center=c, scale=s) for n, c, s in (("a", 0.1, 1.0), ("b", 0.2, 2.0)))
    made = schema(features=(replace(SEEN, center=3.0, scale=4.0), a, b))
    assert made.center.tolist() == pytest.approx([3.0, 0.1, 0.2, 0.1, 0.2])
    assert made.scale.tolist() == pytest.approx([4.0, 1.0, 2.0, 1.0, 2.0])
    assert (schema().center[1], schema().scale[1]) == (0.5, 0.5)  # what lies in 0..1 needs to say nothing


def test_rows_of_a_group_have_one_size() -> None:
    with pytest.raises(ValueError, match=r"rows of group 'x' differ in size: \[\('seen', 1\), \('pair', 2\)\]"):
        schema(features=(replace(SEEN, group="x"), replace(PAIR, group="x")))


def test_extractors_are_given_the_system_s_view() -> None:
    @dataclass(frozen=True)
    class Mine(View):
        @property
        def twice(self) -> float:
            return 2.0 * self.point

    made = schema(features=(replace(SEEN, extract=lambda v: v.twice),), view=Mine)
    assert made.encode(2.0, [], Preference()).tolist() == [4.0]


# ---------------------------------------------------------------- description


def test_the_hash_follows_what_a_controller_depends_on() -> None:
    changed = [
        schema(system="other"),
        schema((COUNT, LEVEL)),
        schema((replace(LEVEL, high=3.0), COUNT)),
        schema((LEVEL, replace(COUNT, integer=False))),
        schema(features=(PAIR, SEEN)),
        schema(features=(replace(SEEN, unit="feet"), PAIR)),
        schema(features=(SEEN, replace(PAIR, size=3))),
        schema(features=(SEEN, replace(PAIR, group="g"))),
        schema(features=(SEEN, replace(PAIR, center=0.25))),
        schema(features=(SEEN, replace(PAIR, scale=2.0))),
        schema(features=(SEEN,)),
    ]
    assert len({schema().hash, *(each.hash for each in changed)}) == 1 + len(changed)
    prose = schema((replace(LEVEL, meaning="in other words", grid=(0.5,)), COUNT))
    assert prose.hash == schema().hash


def test_the_first_difference_names_both_sides() -> None:
    here = schema()
    assert here.difference(schema().describe()) == ""
    other = schema((replace(LEVEL, high=3.0), COUNT)).describe()
    assert here.difference(other) == (
        "knobs row 0: name level, low -2.0, high 3.0, unit volt, integer False there, "
        "name level, low -2.0, high 2.0, unit volt, integer False here"
    )
    assert here.difference(schema(features=(SEEN,)).describe()).startswith("features row 1: nothing there, name pair")
    assert here.difference({}).startswith("knobs row 0: nothing there")


def test_the_tables_hold_a_line_a_row_with_its_places() -> None:
    assert schema().knob_table().splitlines()[2:] == [
        "| 0 | `level` | -2..2 | volt | how much |",
        "| 1 | `count` | 2..5, whole | pieces | how many |",
    ]
    assert schema().feature_table().splitlines()[2:] == [
        "| 0 | `seen` | 0 | 10 | metres | how far |",
        "| 1-2 | `pair` | 0 | 1 | share | two of a kind |",
    ]


# ---------------------------------------------------------------- grid


def test_without_searches_all_values_are_crossed_and_presets_added() -> None:
    grid = schema(presets={"odd": Settings(-1.0, 3)}).grid()
    assert grid == [Settings(0.0, 2), Settings(0.0, 5), Settings(1.0, 2), Settings(1.0, 5), Settings(-1.0, 3)]


def test_a_search_crosses_the_first_values_and_each_setting_is_tried_once() -> None:
    made = schema(searches=({"level": 2}, {"count": 2}), presets={"same": Settings(0.0, 2)})
    assert made.grid() == [Settings(0.0, 2), Settings(1.0, 2), Settings(0.0, 5)]
