"""Checks of settings: what passes, what is refused, and what a message may show."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SettingError, SyneraError
from runtime.settings import above, one_of, shown, within


@pytest.mark.parametrize("value", [0, 1, 0.5, 1.0])
def test_numbers_inside_pass(value: float) -> None:
    within("share", value, 0, 1)


@pytest.mark.parametrize("value", [-1, 1.001, math.nan, math.inf, -math.inf, True, "1", None, [0], 10**400, 1j])
def test_everything_else_is_refused_by_name_value_and_range(value: object) -> None:
    with pytest.raises(SettingError, match=r"^share=.+ must be a number in 0\.\.1$"):
        within("share", value, 0, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e308 * 10])
def test_no_upper_end_still_means_finite(value: float) -> None:
    with pytest.raises(SettingError, match=r"steps=.* must be a number at least 1"):
        within("steps", value, 1)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, False, "2"])
def test_above_leaves_the_bound_out(value: object) -> None:
    above("seconds", 1e-9, 0)
    with pytest.raises(SettingError, match=r"seconds=.* must be a number above 0"):
        above("seconds", value, 0)  # type: ignore[arg-type]


def test_a_word_is_one_of_those_allowed() -> None:
    one_of("dtype", "float32", ("float32", "bfloat16"))
    with pytest.raises(SettingError, match="dtype='int8' is not one of float32, bfloat16"):
        one_of("dtype", "int8", ("float32", "bfloat16"))


def test_a_wrong_setting_is_a_user_s_mistake_and_a_value_error() -> None:
    assert issubclass(SettingError, SyneraError)
    assert issubclass(SettingError, ValueError)


@given(st.one_of(st.text(), st.binary(), st.integers(), st.lists(st.text())))
def test_what_is_shown_is_one_short_printable_line(value: object) -> None:
    text = shown(value, 40)
    assert text.isprintable()
    assert len(text) <= 40


def test_what_is_short_is_shown_as_it_is() -> None:
    assert shown("a\x1b[31m") == "'a\\x1b[31m'"
    assert shown(10**5000) == "a number of too many digits"
