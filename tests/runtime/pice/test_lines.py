"""Lines of a sketch that is being written, and the parts that they are put together to."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SettingError
from runtime.pice.lines import Line, Lines, Parts

END, HEADING, MARK = re.compile(r"[;.]"), re.compile(r"(\w+): "), re.compile(r"- ")


def test_a_line_is_there_as_soon_as_its_end_is() -> None:
    lines = Lines(END, HEADING, MARK)
    assert lines.read("Rome: old") == []
    assert lines.read("Rome: old;") == [Line("old", "Rome")]
    assert lines.read("Rome: old; - large; ;Bonn: sm") == [Line("large", "Rome")]
    assert lines.read("Rome: old; - large; ;Bonn: small", over=True) == [Line("small", "Bonn")]
    assert lines.read("Rome: old; - large; ;Bonn: small", over=True) == []


@given(st.text("ab;. :-", max_size=60), st.data())
def test_lines_are_the_same_however_a_text_comes(text: str, data: st.DataObject) -> None:
    stops = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    whole = Lines(END, HEADING, MARK).read(text, over=True)
    growing = Lines(END, HEADING, MARK)
    found = [line for stop in stops for line in growing.read(text[:stop])]
    assert found + growing.read(text, over=True) == whole


@given(st.lists(st.integers(0, 4), max_size=8), st.integers(1, 8), st.integers(1, 20))
def test_parts_hold_every_line_once_in_order(coming: list[int], parts: int, expected: int) -> None:
    making, made, lines = Parts(parts, expected), [], [Line(str(number)) for number in range(sum(coming))]
    given_so_far = 0
    for count in coming:
        made += making.add(lines[given_so_far : given_so_far + count])
        given_so_far += count
    made += making.add([], over=True)
    assert [line for part in made for line in part.lines] == lines
    assert [part.number for part in made] == list(range(len(made)))
    assert len(made) <= parts or len(lines) > expected


def test_numbers_out_of_range_are_named() -> None:
    with pytest.raises(SettingError, match="parts=0"):
        Parts(0, 3)
    with pytest.raises(SettingError, match="expected_lines=0"):
        Parts(2, 0)
