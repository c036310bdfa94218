"""Scores of answers to the bundled tasks, each by its content; exact and without a stored key.

What does not live here: prompts and their reference answers (tinyworld.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import lru_cache

from traces.tasks import wording
from traces.tasks.tinyworld import kind_of, solve


@lru_cache(maxsize=1)
def _sentence_patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple(
        (attribute, re.compile(re.escape(text).replace(r"\{t\}", r"\w+").replace(r"\{v\}", r"([\w ]+)")))
        for attribute, texts in wording.SENTENCES.items()
        for text in texts
    )


def _stated_facts(answer: str) -> Counter[tuple[str, str, int]]:
    """The facts that a description states, as (attribute, token, place in value); years count digit by digit."""
    stated: Counter[tuple[str, str, int]] = Counter()
    for sentence in re.split(r"(?<=\.)\s+", answer.strip()):
        for attribute, pattern in _sentence_patterns():
            if match := pattern.fullmatch(sentence):
                tokens = match[1].split() if attribute != "founding" else list(match[1])
                stated.update((attribute, token, i) for i, token in enumerate(tokens))
    return stated


def _score_last_value(prompt: str, answer: str) -> float:
    def final(text: str) -> str | None:
        found = re.findall(r"\bis ([\w ]+)\.", text)
        return found[-1] if found else None

    return float(final(answer) == final(solve(prompt)))


def _score_description(prompt: str, answer: str) -> float:
    wanted, stated = _stated_facts(solve(prompt)), _stated_facts(answer)
    common = (wanted & stated).total()
    return 2.0 * common / (wanted.total() + stated.total())


def _score_exact(prompt: str, answer: str) -> float:
    return float(answer.strip() == solve(prompt))


_SCORERS: dict[str, Callable[[str, str], float]] = {
    "fact": _score_last_value,
    "problem": _score_last_value,
    "bill": _score_last_value,
    "description": _score_description,
    "sketch": _score_exact,
    "expansion": _score_exact,
}


def score(prompt: str, answer: str) -> float:
    """Return the quality of an answer, in [0, 1].

    Facts: the exact value. Problems and bills: the final number. Descriptions: token F1 over the facts stated
    (attribute, token and place must agree). Sketches and expansions: exact text.

    Raises:
        TaskError: the prompt is of no bundled kind.
    """
    return _SCORERS[kind_of(prompt)](prompt, answer)
