"""Scores of answers to the bundled tasks, each by its content, however worded; exact and without a stored key.

Also which characters of an answer state a fact, are a digit, or are wording. What does not live here: what the answer to a
prompt states (answers.py), and the forms (wording.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, lru_cache

from traces.tasks import wording
from traces.tasks.answers import Statement, kind_of, solve, statements
from traces.tasks.text_scores import ordered_f1

PARTS = ("wording", "fact", "digit")
"""What a part of an answer may be: a value of the world, a digit of a sum, or anything else."""
_Forms = tuple[str, ...]
_SENTENCE = re.compile(r"[^.]+\.")
_KEY_FACT = re.compile(rf"\b(?:{'|'.join(wording.ATTRIBUTES)}) (?P<v>[^;.]+)[;.]")
_OF_TOWNS: tuple[_Forms, ...] = tuple(wording.SENTENCES.values())


@cache
def _patterns(forms: _Forms) -> tuple[re.Pattern[str], ...]:
    return tuple(wording.pattern(form) for form in forms)


@lru_cache(maxsize=65536)  # what ends in one graph ends in sentences that ended others
def _said(sentence: str, *groups: _Forms) -> tuple[_Forms, re.Match[str]] | None:
    """In which group of forms a sentence is, and how it fits."""
    return next(((forms, m) for forms in groups for pattern in _patterns(forms) if (m := pattern.fullmatch(sentence))), None)


def _states(sentence: str, wanted: Statement) -> bool:
    """Whether a sentence makes a statement, as far as its form names the fields."""
    said = _said(sentence, wanted.forms)
    return said is not None and said[1].groupdict().items() <= wanted.fields.items()


def _sentences(answer: str) -> list[str]:
    return [sentence.strip() for sentence in _SENTENCE.findall(answer)]


def _score_last(prompt: str, answer: str) -> float:
    """1.0 where the last sentence says what the answer comes to."""
    wanted, last = statements(prompt)[-1], _sentences(answer)[-1:]
    return float(bool(last) and answer.rstrip().endswith(last[0]) and _states(last[0], wanted))


def _score_description(prompt: str, answer: str) -> float:
    told = statements(prompt)
    town = told[0].fields["t"]
    wanted = Counter(token for statement in told for token in _value_tokens(statement.forms, statement.fields["v"]))
    said = [found for sentence in _sentences(answer) if (found := _said(sentence, *_OF_TOWNS))]
    stated = Counter(token for forms, match in said if match["t"] == town for token in _value_tokens(forms, match["v"]))
    return 2.0 * (wanted & stated).total() / (wanted.total() + stated.total())


def _score_tour(prompt: str, answer: str) -> float:
    told = [(s.fields["t"], token) for s in statements(prompt) for token in _value_tokens(s.forms, s.fields["v"])]
    said = [found for sentence in _sentences(answer) if (found := _said(sentence, *_OF_TOWNS))]
    stated = [(match["t"], token) for forms, match in said for token in _value_tokens(forms, match["v"])]
    return ordered_f1(stated, told)


def _value_tokens(forms: _Forms, value: str) -> Iterator[tuple[str, str, int]]:
    """The tokens of a value: what it is of, the token, its place; years count digit by digit."""
    tokens = list(value) if forms == wording.SENTENCES["founding"] else value.split()
    return ((forms[0], token, place) for place, token in enumerate(tokens))


def _score_exact(prompt: str, answer: str) -> float:
    return float(answer.strip() == solve(prompt))


def _score_expansion(prompt: str, answer: str) -> float:
    return float(_states(answer.strip(), statements(prompt)[0]))


_SCORERS: dict[str, Callable[[str, str], float]] = {
    "fact": _score_last,
    "problem": _score_last,
    "bill": _score_last,
    "description": _score_description,
    "tour": _score_tour,
    "sketch": _score_exact,
    "expansion": _score_expansion,
}


def score(prompt: str, answer: str) -> float:
    """Return the quality of an answer, in [0, 1], the same for all its wordings.

    Facts: the exact value. Problems and bills: the final number, in a final sentence. Descriptions: token F1 over the facts
    stated of the town (attribute, token and place must agree), in any order. Tours: likewise over all their towns, of the longest part that is
    in the tour's order. Expansions: the fact in any form. Sketches: exact
    text.

    Raises:
        TaskError: the prompt is of no bundled kind.
    """
    return _SCORERS[kind_of(prompt)](prompt, answer)


def parts(prompt: str, answer: str) -> list[str]:
    """Return what each character of an answer is, one of :data:`PARTS`.

    A fact is a value of the world in a sentence that states one, whether true or not; the digits of a founding year are fact.

    Raises:
        TaskError: the prompt is of no bundled kind.
    """
    found = ["digit" if character.isdigit() else "wording" for character in answer]
    for start, stop in _values(kind_of(prompt), answer):
        found[start:stop] = ["fact"] * (stop - start)
    return found


def _values(kind: str, answer: str) -> Iterator[tuple[int, int]]:
    """Where the values of the world stand in an answer."""
    if kind == "sketch":
        yield from (match.span("v") for match in _KEY_FACT.finditer(answer))
        return
    groups = {"fact": (wording.FACT_ANSWERS,), "description": _OF_TOWNS, "tour": _OF_TOWNS, "expansion": _OF_TOWNS}.get(
        kind, ()
    )
    for sentence in _SENTENCE.finditer(answer):
        if said := _said(sentence[0].strip(), *groups):
            first, last = said[1].span("v")
            began = sentence.start() + len(sentence[0]) - len(sentence[0].lstrip())
            yield began + first, began + last
