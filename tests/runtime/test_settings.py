"""Checks of settings, and text that is shown as it is."""

from __future__ import annotations

import math

import pytest

from runtime.errors import SettingError
from runtime.settings import above, one_of, plain, shown, within


@pytest.mark.parametrize("value", [0, 1, 2.5, 10**400])
def test_numbers_within_pass(value: float) -> None:
    within("steps", value, 0)
    if value < 10:
        within("steps", value, 0, 10)


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, -math.inf, True, "1", None, -(10**400)])
def test_numbers_outside_are_refused_with_name_and_value(value: object) -> None:
    with pytest.raises(SettingError, match=r"steps=.* must be a number at least 0"):
        within("steps", value, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [-1, 11, 10**400, math.nan, math.inf])
def test_numbers_outside_a_range(value: float) -> None:
    with pytest.raises(SettingError, match=r"steps=.* must be a number in 0\.\.10"):
        within("steps", value, 0, 10)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, False])
def test_numbers_that_are_not_above(value: float) -> None:
    with pytest.raises(SettingError, match=r"seconds=.* must be a number above 0"):
        above("seconds", value, 0)


def test_words_that_are_not_allowed() -> None:
    one_of("dtype", "a", ("a", "b"))
    with pytest.raises(SettingError, match="dtype='c' is not one of a, b"):
        one_of("dtype", "c", ("a", "b"))


def test_what_is_shown_is_short_and_on_one_line() -> None:
    assert shown("a\nb\x1b") == r"'a\nb\x1b'"
    assert len(shown("x" * 1000)) == 80
    assert shown(10**5000) == "a number of too many digits"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain [bold]x[/] :smile: [/INST] \\", "plain [bold]x[/] :smile: [/INST] \\"),
        ("a\nb\tc", "a\nb\tc"),
        ("\x1b[2J\x07\r\x00\x9b", r"\x1b[2J\x07\r\x00\x9b"),
        ("a\u202eb\u2028c\ufeff", r"a\u202eb\u2028c\ufeff"),
        ("\udcff", r"\udcff"),
        ("für 東京 \u00a0\u3000 क्\u200cष 👩\u200d🔬", "für 東京 \u00a0\u3000 क्\u200cष 👩\u200d🔬"),
    ],
)
def test_text_is_shown_without_what_acts_on_a_terminal(text: str, wanted: str) -> None:
    assert plain(text) == wanted
    plain(text).encode()
