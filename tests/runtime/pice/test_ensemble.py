"""Scores of candidates: likely ones, those that say what the sketch says, and both."""

from __future__ import annotations

import pytest

from runtime.errors import SettingError
from runtime.pice.ensemble import Candidate, Weights, agreement, best, likelihood
from runtime.pice.lines import Line

LINES = [Line("mayor Mira Voss", "Marwick"), Line("founding 1234", "Marwick")]
RIGHT = Candidate("Mira Voss is the mayor of Marwick. People have lived in Marwick since about 1234, its founding.", -9.0, 18)
WRONG = Candidate("Mira Holm is the mayor of Marwick. People have lived in Marwick since about 1299.", -4.0, 16)


def test_a_text_agrees_by_the_words_of_its_lines() -> None:
    assert agreement(RIGHT.text, LINES) == 1.0
    assert agreement(WRONG.text, LINES) == pytest.approx(3 / 6)  # mayor, Mira and Marwick of six
    assert agreement("MIRA VOSS", [Line("Mira Voss")]) == 1.0
    assert agreement("Mira", [Line("Mira Mira")]) == 0.5
    assert agreement("anything", []) == 1.0


def test_length_costs_no_likelihood() -> None:
    assert likelihood(Candidate("a", -2.0, 4)) == likelihood(Candidate("aa", -4.0, 8)) == -0.5
    assert likelihood(Candidate("", 0.0, 0)) == 0.0


def test_weights_say_what_counts() -> None:
    assert best([WRONG, RIGHT], LINES, Weights(1.0, 0.0)) == 0
    assert best([WRONG, RIGHT], LINES, Weights(0.0, 1.0)) == 1
    assert best([WRONG, RIGHT], LINES, Weights(1.0, 1.0)) == 1
    assert best([RIGHT, RIGHT], LINES, Weights()) == 0


@pytest.mark.parametrize("wrong", [{"likelihood": -1.0}, {"agreement": float("nan")}])
def test_a_wrong_weight_is_named(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=next(iter(wrong))):
        Weights(**wrong)
