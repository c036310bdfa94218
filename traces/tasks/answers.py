"""What the answer to a prompt states, and the ways to word it.

A prompt alone determines what its answer states: it is parsed against the world and worked out, so scoring needs no stored
key. How that is worded is free. What does not live here: how prompts are drawn (tinyworld.py), the forms (wording.py), and
what an answer is worth (scorers.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from runtime.errors import SyneraError
from runtime.settings import within
from traces.tasks import wording
from traces.tasks.wording import ATTRIBUTES
from traces.tasks.world import world

_KEPT = 4096  # prompts: a graph has one, and as many ends to score as it has answers


class TaskError(SyneraError, ValueError):
    """A prompt that no bundled task kind can parse."""


@dataclass(frozen=True)
class Statement:
    """A sentence of an answer: what it states, and the forms in which it may be said."""

    forms: tuple[str, ...]
    fields: dict[str, str]

    def said(self, rng: np.random.Generator | None) -> str:
        """Return it in its canonical form, or, with `rng`, in any."""
        return wording.word(self.forms, rng).format(**self.fields)


_BY_FIRST_WORD = {"Bill:": "bill", "Describe": "description", "Sketch": "sketch", "Expand": "expansion"}


@lru_cache(maxsize=_KEPT)
def kind_of(prompt: str) -> str:
    """Return the form that a prompt belongs to.

    Raises:
        TaskError: the prompt is of no bundled kind.
    """
    if kind := _BY_FIRST_WORD.get(prompt.split(" ", 1)[0]):
        return "tour" if kind == "description" and ";" in prompt else kind
    if " has " in prompt and "How many" in prompt:
        return "problem"
    if _parse_fact(prompt) is not None:
        return "fact"
    raise TaskError(f"the prompt {prompt!r} is of none of the bundled kinds {tuple(_STATEMENTS)}")


@lru_cache(maxsize=1)
def _question_patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple(
        (attribute, re.compile(re.escape(text).replace(r"\{t\}", r"(\w+)")))
        for attribute, texts in wording.QUESTIONS.items()
        for text in texts
    )


def _parse_fact(prompt: str) -> tuple[str, str] | None:
    for attribute, pattern in _question_patterns():
        if (match := pattern.fullmatch(prompt)) and match[1] in world().facts:
            return match[1], attribute
    return None


def _parse_topics(prompt: str) -> tuple[str, tuple[str, ...]]:
    match = re.fullmatch(r"\w+ (\w+): ([\w, ]+)\.", prompt)
    attributes = tuple(match[2].split(", ")) if match else ()
    if not match or match[1] not in world().facts or not set(attributes) <= set(ATTRIBUTES):
        raise TaskError(f"cannot parse {prompt!r}; expected 'Describe TOWN: ATTRIBUTE, ATTRIBUTE.' with {ATTRIBUTES}")
    return match[1], attributes


def _state_fact(prompt: str) -> list[Statement]:
    parsed = _parse_fact(prompt)
    if parsed is None:
        raise TaskError(f"cannot parse {prompt!r} as a question about a town")
    town, attribute = parsed
    return [Statement(wording.FACT_ANSWERS, {"a": attribute, "t": town, "v": world().facts[town][attribute]})]


def _state_problem(prompt: str) -> list[Statement]:
    numbers = re.findall(r"(\d+)", prompt)
    told = re.match(r"(\w+) has \d+ (\w+)\. ", prompt)
    sentences = prompt.split(". ")[1:-1]
    if told is None or len(numbers) != len(sentences) + 1:
        raise TaskError(f"cannot parse {prompt!r} as a word problem")
    name, item, value, steps = told[1], told[2], int(numbers[0]), []
    for sentence, k in zip(sentences, map(int, numbers[1:]), strict=True):
        sign = "x" if "times" in sentence else "+" if "more" in sentence else "-"
        after = value * k if sign == "x" else value + k if sign == "+" else value - k
        steps.append(Statement(wording.STEPS[sign], {"n": name, "a": str(value), "k": str(k), "b": str(after)}))
        value = after
    return [*steps, Statement(wording.RESULTS, {"n": name, "i": item, "v": str(value)})]


def _state_bill(prompt: str) -> list[Statement]:
    total, lines = 0, []
    for quantity, good, price in re.findall(r"(\d+) (\w+) at (\d+)", prompt):
        cost = int(quantity) * int(price)
        total += cost
        fields = {"q": quantity, "g": good, "p": price, "c": str(cost), "v": str(total)}
        lines.append(Statement(wording.LINES, fields))
    if not lines:
        raise TaskError(f"cannot parse {prompt!r} as a bill")
    return [*lines, Statement(wording.TOTALS, {"v": str(total)})]


def _state_description(prompt: str) -> list[Statement]:
    town, attributes = _parse_topics(prompt)
    facts = world().facts[town]
    return [told_of(town, a, facts[a]) for a in attributes]


def parse_tour(prompt: str) -> tuple[tuple[str, str], ...]:
    """Return the towns and attributes that a tour is about, in its order.

    Raises:
        TaskError: the prompt is no tour.
    """
    topics = list[tuple[str, str]]()
    if kind_of(prompt) == "tour" and prompt.endswith("."):
        for piece in prompt.removeprefix("Describe ")[:-1].split("; "):
            town, _, attributes = piece.partition(": ")
            topics += [(town, attribute) for attribute in attributes.split(", ")]
    if not topics or not all(town in world().facts and attribute in ATTRIBUTES for town, attribute in topics):
        raise TaskError(
            f"cannot parse {prompt!r}; expected 'Describe TOWN: ATTRIBUTE, ATTRIBUTE; TOWN: ATTRIBUTE.' with {ATTRIBUTES}"
        )
    return tuple(topics)


def told_of(town: str, attribute: str, value: str) -> Statement:
    """Return what states a fact of a town, true or not."""
    return Statement(wording.SENTENCES[attribute], {"t": town, "v": value})


def _state_tour(prompt: str) -> list[Statement]:
    return [told_of(town, attribute, world().facts[town][attribute]) for town, attribute in parse_tour(prompt)]


def _state_sketch(prompt: str) -> list[Statement]:
    town, attributes = _parse_topics(prompt)
    ends = (*(";" for _ in attributes[1:]), ".")
    facts = world().facts[town]
    return [Statement(("{a} {v}" + end,), {"a": a, "v": facts[a]}) for a, end in zip(attributes, ends, strict=True)]


def _state_expansion(prompt: str) -> list[Statement]:
    match = re.fullmatch(r"Expand (\w+): (\w+) ([\w ]+)\.", prompt)
    if not match or match[2] not in ATTRIBUTES:
        raise TaskError(f"cannot parse {prompt!r}; expected 'Expand TOWN: ATTRIBUTE VALUE.'")
    return [Statement(wording.SENTENCES[match[2]], {"t": match[1], "v": match[3]})]


_STATEMENTS: dict[str, Callable[[str], list[Statement]]] = {
    "fact": _state_fact,
    "problem": _state_problem,
    "bill": _state_bill,
    "description": _state_description,
    "tour": _state_tour,
    "sketch": _state_sketch,
    "expansion": _state_expansion,
}
_IN_ANY_ORDER = ("description",)  # kinds whose statements may be


@lru_cache(maxsize=_KEPT)
def statements(prompt: str) -> tuple[Statement, ...]:
    """Return what the answer to a prompt states, in the order of the prompt.

    Raises:
        TaskError: the prompt is of no bundled kind.
    """
    return tuple(_STATEMENTS[kind_of(prompt)](prompt))


def solve(prompt: str) -> str:
    """Return the canonical answer to a prompt.

    Raises:
        TaskError: the prompt is of no bundled kind.
    """
    return " ".join(statement.said(None) for statement in statements(prompt))


def worded(prompt: str, rng: np.random.Generator, freedom: float) -> str:
    """Return an answer that says the same as the canonical one.

    Args:
        prompt: of a bundled kind.
        rng: what draws the wording.
        freedom: how likely each sentence is to take any of its forms instead of the canonical one, and a description any
            order; 0 is the canonical answer.

    Raises:
        TaskError: the prompt is of no bundled kind.
        SettingError: the freedom is outside 0..1.
    """
    within("freedom", freedom, 0, 1)
    stated = list(statements(prompt))
    if kind_of(prompt) in _IN_ANY_ORDER and rng.random() < freedom:
        stated = [stated[i] for i in rng.permutation(len(stated))]
    return " ".join(statement.said(rng if rng.random() < freedom else None) for statement in stated)
