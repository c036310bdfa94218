"""The formulas: known values, and what holds of every text."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.tasks import text_scores

SCORES: list[Callable[[str, str], float]] = [
    text_scores.same,
    text_scores.exact_match,
    text_scores.token_f1,
    text_scores.word_f1,
    text_scores.final_number,
    text_scores.rouge_l,
]
WORDS = st.text(alphabet="ab1 .,the你\n", max_size=30)


@pytest.mark.parametrize("score", SCORES)
@given(answer=WORDS, reference=WORDS)
def test_a_score_is_a_share_and_whole_for_the_text_itself(
    score: Callable[[str, str], float], answer: str, reference: str
) -> None:
    assert 0 <= score(answer, reference) <= 1
    holds = {text_scores.final_number: text_scores.last_number, text_scores.rouge_l: text_scores.rouge_words}
    if holds.get(score, lambda text: True)(reference):
        assert score(reference, reference) == pytest.approx(1)


@pytest.mark.parametrize(
    ("answer", "reference", "f1", "match"),
    [
        ("The cat sat.", "a cat sat", 1.0, 1.0),  # of SQuAD's evaluate-v1.1.py
        ("the cat sat on the mat", "cat sat", 2 * (2 / 4) * 1 / (2 / 4 + 1), 0.0),
        ("dog dog", "dog cat", 0.5, 0.0),
        ("", "cat", 0.0, 0.0),
        ("the", "a", 1.0, 1.0),  # nothing is left of either
        ("Denver Broncos", "Carolina Panthers", 0.0, 0.0),
    ],
)
def test_squad_s_scores(answer: str, reference: str, f1: float, match: float) -> None:
    assert text_scores.token_f1(answer, reference) == pytest.approx(f1)
    assert text_scores.exact_match(answer, reference) == match


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 42.", "42"),
        ("5 + 5 = 10\n#### 10", "10"),
        ("first 3, then\n#### 1,234 of 9", "1234"),
        ("#### -7", "-7"),
        ("so 16 - 3 = 13 left", "13"),
        ("10-3", "3"),
        ("it is -5.", "-5"),
        ("it is \u22125.", "-5"),
        ("- 5 apples", "5"),
        ("x=-4", "-4"),
        ("costs $1,234.50 in all", "1234.50"),
        ("-$5", "-5"),
        ("1,2,3", "3"),
        ("1,000,000.", "1000000"),
        ("half, or .5", "0.5"),
        ("7.", "7"),
        ("50%", "50"),
    ],
)
def test_the_last_number_of_a_text(text: str, number: str) -> None:
    assert text_scores.last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "####", "8 apples #### none"])
def test_a_text_without_a_number(text: str) -> None:
    assert text_scores.last_number(text) is None
    assert text_scores.final_number(text, text) == 0.0


@given(number=st.integers(-(10**9), 10**9), decimals=st.integers(0, 99))
def test_a_number_is_read_however_it_is_written(number: int, decimals: int) -> None:
    value = f"{number}.{decimals:02}"
    for text in (f"It is {value}.", f"#### {number:,}.{decimals:02}", f"no, {value}0 then"):
        assert text_scores.final_number(text, f"#### {value}") == 1.0
    assert text_scores.final_number(f"It is {number + 1}.{decimals:02}.", f"#### {value}") == 0.0


def test_words_of_any_language_count_for_agreement() -> None:
    assert text_scores.words("Hello, naïve World!") == ["hello", "naïve", "world"]
    assert text_scores.words("我是中国人 ok") == ["我", "是", "中", "国", "人", "ok"]
    assert text_scores.words("ไทย") == ["ไ", "ท", "ย"]
    assert text_scores.word_f1("你好世界", "你好吗") == pytest.approx(2 * 2 / 7)
    assert text_scores.token_f1("你好世界", "你好吗") == 0.0, "which is why agreement does not take it"
    assert text_scores.word_f1("привет мир", "привет") == pytest.approx(2 / 3)


def test_rouge_l_is_that_of_its_package() -> None:
    """Lin 2004: the longest common subsequence of 'the cat sat' in 'the cat never sat' has three words."""
    assert text_scores.rouge_l("the cat sat", "the cat never sat") == pytest.approx(2 * 1 * (3 / 4) / (1 + 3 / 4))
    assert text_scores.rouge_l("sat cat the", "the cat sat") == pytest.approx(1 / 3)
    assert text_scores.rouge_words("Привет") == []
