"""Tours: long descriptions of several towns, the outlines that a sketch of one may be, and the passages that tell an outline again.

An outline names each fact of a tour by its key fact: a town, an attribute and its value, cut the shorter the lower its level. A passage tells
key facts, and completes what was cut from what it knows of the town. What does not live here: single towns' descriptions (tinyworld.py), what a tour is worth
(scorers.py), models.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from runtime.errors import SettingError
from runtime.settings import one_of, whole, within
from traces.tasks.answers import Statement, TaskError, parse_tour, told_of
from traces.tasks.tinyworld import SPLITS, Task, split_of
from traces.tasks.wording import ATTRIBUTES
from traces.tasks.world import world

LEVELS = (1, 2, 3)
"""Of an outline: 1 names attributes only, 2 cuts names of people to the first and years to their century, 3 cuts nothing."""
FEWEST_FACTS, MOST_FACTS = 5, 12
_TOWNS = (2, 4)
_LEVEL_SHARES, _UNTRUE_SHARE = (0.1, 0.25, 0.65), 0.8  # of key facts to learn passages from
_PIECE = re.compile(r"(\w+): ([\w, ]+)")


@dataclass(frozen=True)
class KeyFact:
    """What an outline says of one fact."""

    town: str
    attribute: str
    value: str
    """All of it, or its beginning; may be empty."""


def draw_tour(rng: np.random.Generator, split: str = "train") -> str:
    """Draw the prompt of a tour: `Describe TOWN: ATTRIBUTE, ATTRIBUTE; TOWN: ATTRIBUTE.`, 2 to 4 towns and 5 to 12 facts.

    Args:
        rng: what it is drawn by.
        split: one of :data:`traces.tasks.tinyworld.SPLITS`; a property of the prompt's text.

    Raises:
        SettingError: there is no such split.
    """
    one_of("split", split, SPLITS)
    names = world().towns
    while True:
        towns = rng.choice(len(names), int(rng.integers(_TOWNS[0], _TOWNS[1] + 1)), replace=False)
        counts = rng.integers(1, len(ATTRIBUTES) + 1, len(towns))
        if not FEWEST_FACTS <= counts.sum() <= MOST_FACTS:
            continue
        told = (
            f"{names[town]}: {', '.join(rng.permutation(ATTRIBUTES)[:count])}"
            for town, count in zip(towns, counts, strict=True)
        )
        prompt = f"Describe {'; '.join(told)}."
        if split_of(prompt) == split:
            return prompt


def tours(split: str, count: int, seed: int = 0) -> list[str]:
    """Return `count` distinct prompts of tours of a split, the same for the same seed.

    Raises:
        SettingError: there is no such split, or a number is out of its range.
    """
    within("count", count, 1)
    within("seed", seed, 0)
    one_of("split", split, SPLITS)
    rng = np.random.default_rng([seed, 97, SPLITS.index(split)])
    found: dict[str, None] = {}
    while len(found) < count:
        found[draw_tour(rng, split)] = None
    return list(found)


# ---------------------------------------------------------------- outlines


def cut(attribute: str, value: str, level: int) -> str:
    """Return what an outline of a level says of a value.

    Raises:
        SettingError: there is no such level.
    """
    whole("level", level, LEVELS[0], LEVELS[-1])
    if level == 3:
        return value
    if level == 1:
        return ""
    return value[:2] if attribute == "founding" else value.split()[0]


def facts_of(prompt: str, level: int | Sequence[int] = 3) -> list[KeyFact]:
    """Return the true key facts of a tour in its order.

    Args:
        prompt: of a tour.
        level: of all, or of each.

    Raises:
        TaskError: the prompt is no tour.
        SettingError: there is no such level, or they are not as many as the facts.
    """
    topics = parse_tour(prompt)
    levels = [level] * len(topics) if isinstance(level, int) else list(level)
    if len(levels) != len(topics):
        raise SettingError(f"{len(levels)} levels for {len(topics)} facts; there must be one for each")
    known = world().facts
    return [KeyFact(t, a, cut(a, known[t][a], each)) for (t, a), each in zip(topics, levels, strict=True)]


def outline_prompt(prompt: str, level: int) -> str:
    """Return what asks for the outline of a tour.

    Raises:
        TaskError: the prompt is no tour.
        SettingError: there is no such level.
    """
    parse_tour(prompt)
    whole("level", level, LEVELS[0], LEVELS[-1])
    return f"Sketch {level} {prompt.removeprefix('Describe ')}"


def outline(facts: Sequence[KeyFact]) -> str:
    """Return the text of key facts, `TOWN: ATTRIBUTE VALUE, ATTRIBUTE; TOWN: ATTRIBUTE VALUE.`: neighbours of one town under its name."""
    groups = (
        f"{town}: {', '.join(f'{fact.attribute} {fact.value}'.strip() for fact in group)}"
        for town, group in groupby(facts, key=lambda fact: fact.town)
    )
    return "; ".join(groups) + "."


def read_outline(text: str) -> list[KeyFact]:
    """Return the key facts that a text names; what is none of these is passed over, as models write it."""
    found = list[KeyFact]()
    for piece in re.split(r"[;.]", text):
        if match := _PIECE.fullmatch(piece.strip()):
            for said in match[2].split(", "):
                attribute, _, value = said.strip().partition(" ")
                if attribute in ATTRIBUTES:
                    found.append(KeyFact(match[1], attribute, value))
    return found


# ---------------------------------------------------------------- passages


def passage_prompt(facts: Sequence[KeyFact]) -> str:
    """Return what asks to tell key facts."""
    return f"Expand {outline(facts)}"


def passage(facts: Sequence[KeyFact], rng: np.random.Generator | None = None) -> str:
    """Return a passage that tells key facts, cut values completed by what is true of the town where that begins so.

    Args:
        facts: in the order in which they are told.
        rng: what draws the wording; None: the canonical one.

    Raises:
        TaskError: a value is cut that is not true of the town, so nobody can complete it.
    """
    return " ".join(_stated(fact).said(rng) for fact in facts)


def _stated(fact: KeyFact) -> Statement:
    value = fact.value
    if _is_cut(fact):
        truth = world().facts.get(fact.town, {}).get(fact.attribute, "")
        if not truth or not truth.startswith(value):
            raise TaskError(
                f"nobody knows how the {fact.attribute} {value!r} of {fact.town!r} goes on; only what is true of a town can be cut"
            )
        value = truth
    return told_of(fact.town, fact.attribute, value)


def _is_cut(fact: KeyFact) -> bool:
    if fact.attribute == "founding":
        return len(fact.value) < 4
    return " " not in fact.value if fact.attribute == "mayor" else not fact.value


FORMS = ("tour", "outline", "passage")
"""What the pair of PICE learns beside :data:`traces.tasks.tinyworld.FORMS`."""


def sample(form: str, rng: np.random.Generator, split: str = "train") -> Task:
    """Draw something to learn, its answer in any wording.

    Raises:
        SettingError: there is no such form or split.
    """
    one_of("form", form, FORMS)
    if form == "passage":
        facts = draw_facts(rng)
        return Task(form, passage_prompt(facts), passage(facts, rng))
    prompt = draw_tour(rng, split)
    if form == "tour":
        return Task(form, prompt, passage(facts_of(prompt), rng))
    level = LEVELS[rng.integers(len(LEVELS))]
    return Task(form, outline_prompt(prompt, level), outline(facts_of(prompt, level)))


def draw_facts(rng: np.random.Generator) -> list[KeyFact]:
    """Draw the key facts of a passage to learn from: 1 to 4 in a row of a tour, each at a level of its own.

    Most values are whole, and of those most another town's, as to tell is to say what is given, true or not. So who learns from this learns few facts by heart.
    """
    facts = facts_of(draw_tour(rng), 3)
    size = int(rng.integers(1, 5))
    first = int(rng.integers(0, max(1, len(facts) - size + 1)))
    return [_varied(fact, rng) for fact in facts[first : first + size]]


def _varied(fact: KeyFact, rng: np.random.Generator) -> KeyFact:
    level = int(rng.choice(LEVELS, p=_LEVEL_SHARES))
    if level == 3 and rng.random() < _UNTRUE_SHARE:
        names = world().towns
        return KeyFact(fact.town, fact.attribute, world().facts[names[rng.integers(len(names))]][fact.attribute])
    return KeyFact(fact.town, fact.attribute, cut(fact.attribute, fact.value, level))
