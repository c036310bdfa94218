"""How near an answer comes to a reference, as 0..1: formulas over two texts, each with its source.

What does not live here: their names and where references come from (scoring.py), the bundled tasks' scores (scorers.py).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from functools import cache
from typing import Any

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMBER = re.compile(
    r"""(?P<sign>(?<![\w)\].])[-+\u2212])?      # a sign, unless it takes something from what stands before it
        (?:[$\u20ac\u00a3]\s?)?
        (?P<digits>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|(?<![0-9])\.[0-9]+)""",
    re.VERBOSE,
)
_WORDS = re.compile(
    # Each sign of scripts that write no spaces between words; elsewhere what letters and digits are written together.
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]|"
    r"[^\W\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]+"
)


def same(answer: str, reference: str) -> float:
    """Return 1.0 for the same text, white space around it aside."""
    return float(answer.strip() == reference.strip())


def exact_match(answer: str, reference: str) -> float:
    """Return 1.0 for the same words, normalised as SQuAD and NQ-open are scored: see :func:`normalised`."""
    return float(normalised(answer) == normalised(reference))


def token_f1(answer: str, reference: str) -> float:
    """Return the F1 of two bags of normalised words (Rajpurkar et al. 2016, SQuAD, `evaluate-v1.1.py`)."""
    return bag_f1(normalised(answer).split(), normalised(reference).split())


def normalised(text: str) -> str:
    """Return a text in lower case, without punctuation and the words a, an and the, with single spaces.

    Rajpurkar et al. 2016 (SQuAD, `evaluate-v1.1.py`); NQ-open is scored on the same (Lee et al. 2019).
    """
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def word_f1(answer: str, reference: str) -> float:
    """Return the F1 of two bags of words in lower case, punctuation aside; a sign of Chinese, Japanese or Thai is a word. Ours.

    As :func:`token_f1`, but in any language, and no word is left out.
    """
    return bag_f1(words(answer), words(reference))


def words(text: str) -> list[str]:
    """Return what :func:`word_f1` counts as words."""
    return _WORDS.findall(text.lower())


def bag_f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of two bags; 1.0 for two that are empty."""
    if not answer or not reference:
        return float(not answer and not reference)
    common = (Counter(answer) & Counter(reference)).total()
    return 2 * common / (len(answer) + len(reference))


def ordered_f1(answer: Sequence[object], reference: Sequence[object]) -> float:
    """Return the harmonic mean of precision and recall of the longest common subsequence (ROUGE-L's, Lin 2004); 1.0 for two that are empty."""
    if not answer or not reference:
        return float(not answer and not reference)
    longest = [0] * (len(reference) + 1)  # up to each place of the reference
    for item in answer:
        before = 0
        for place, wanted in enumerate(reference, 1):
            before, longest[place] = longest[place], before + 1 if item == wanted else max(longest[place], longest[place - 1])
    return 2 * longest[-1] / (len(answer) + len(reference))


def final_number(answer: str, reference: str) -> float:
    """Return 1.0 where both end with the same number, as GSM8K is scored (Cobbe et al. 2021)."""
    found, wanted = last_number(answer), last_number(reference)
    return float(found is not None and found == wanted)


def last_number(text: str) -> Decimal | None:
    """Return the number that follows the last `####`, as GSM8K marks it, else the last one of a text; None where there is none.

    Commas between thousands, a sign, decimals and a currency before it are read; 7, 7.0 and +7 are one number.
    """
    _, mark, behind = text.rpartition("####")
    numbers = list(_NUMBER.finditer(behind))
    if not numbers:
        return None
    found = numbers[0 if mark else -1]
    value = Decimal(found["digits"].replace(",", ""))
    return -value if found["sign"] in ("-", "\u2212") else value


def rouge_l(answer: str, reference: str) -> float:
    """Return the F-measure of ROUGE-L (Lin 2004) by the package `rouge-score`, without stemming; it sees a-z and 0-9 alone."""
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


def rouge_words(text: str) -> list[str]:
    """Return what :func:`rouge_l` sees of a text."""
    return list(_rouge()._tokenizer.tokenize(text))


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"])
