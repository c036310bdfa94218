"""The bundled tasks: a generated world, four kinds of prompts with exactly scored answers.

What lives here: prompts, reference answers, splits. What does not: scores (scorers.py), the words (wording.py), their
tokenizer (vocabulary.py), models, training, recorded traces.

Every prompt determines its reference answer: :func:`solve` parses the prompt against the world and works the answer
out, so scoring needs no stored key. Splits are a property of the prompt text (:func:`split_of`), hence disjoint by
construction; facts themselves are learned by heart, by design.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from runtime.errors import SettingError, SyneraError
from runtime.settings import one_of, within
from traces.tasks import wording
from traces.tasks.wording import ATTRIBUTES

KINDS = ("fact", "problem", "bill", "description")
"""The four scored task kinds."""
FORMS = (*KINDS, "sketch", "expansion")
"""The kinds and the two sketch forms of a description (prompt to key facts; key facts of a sentence to the sentence)."""
SPLITS = ("train", "validation", "test")

_TOWNS = 400
_WORLD_SEED = 7


class TaskError(SyneraError, ValueError):
    """A prompt that no bundled task kind can parse."""


@dataclass(frozen=True)
class Task:
    """One prompt of the bundled world."""

    kind: str
    """One of :data:`FORMS`."""
    prompt: str
    answer: str
    """The reference answer; scores 1.0."""


@dataclass(frozen=True)
class World:
    """The towns and their facts."""

    facts: dict[str, dict[str, str]]
    """town -> attribute -> value."""

    @property
    def towns(self) -> tuple[str, ...]:
        """Town names, in generation order."""
        return tuple(self.facts)


def _names(rng: np.random.Generator, count: int, starts: str, middles: str, ends: str) -> list[str]:
    names = sorted({(a + b + c).capitalize() for a in starts.split() for b in middles.split() for c in ends.split()})
    return [names[i] for i in rng.permutation(len(names))[:count]]


@lru_cache(maxsize=1)
def world() -> World:
    """Return the one bundled world (seeded; the same on every machine)."""
    rng = np.random.default_rng(_WORLD_SEED)
    towns = _names(
        rng,
        _TOWNS,
        "bel mar tor ves cal dun fen gar hol kes lor nim pel ros sal",
        "a e i o u",
        "mora dale wick stad burn ford ham",
    )
    rivers = _names(rng, 60, "sa vi lo ka mu ne ri to", "r l n s", "n a e ve th")
    pick = rng.choice
    facts = {
        town: {
            "river": str(pick(rivers)),
            "founding": str(rng.integers(1100, 1900)),
            "trade": str(pick(wording.TRADES)),
            "mayor": f"{pick(wording.FIRST)} {pick(wording.LAST)}",
            "neighbour": towns[(i + 1 + int(rng.integers(len(towns) - 1))) % len(towns)],
            "feast": str(pick(wording.FEASTS)),
        }
        for i, town in enumerate(towns)
    }
    return World(facts)


def split_of(prompt: str) -> str:
    """Return the split that a prompt belongs to: 90 % train, 5 % validation, 5 % test, by a checksum of its text."""
    bucket = zlib.crc32(prompt.encode()) % 20
    return {0: "test", 1: "validation"}.get(bucket, "train")


# ---------------------------------------------------------------- prompts


def _fact_prompt(rng: np.random.Generator) -> str:
    attribute = ATTRIBUTES[rng.integers(len(ATTRIBUTES))]
    wordings = wording.QUESTIONS[attribute]
    return wordings[rng.integers(len(wordings))].format(t=_any_town(rng))


def _problem_prompt(rng: np.random.Generator) -> str:
    name, value = str(rng.choice(wording.FIRST)), int(rng.integers(5, 100))
    item = str(rng.choice(wording.ITEMS))
    text = [f"{name} has {value} {item}."]
    wordings: tuple[str, ...]
    for _ in range(rng.integers(2, 5)):
        operation = rng.choice(["+", "*"] if value < 5 else ["+", "-", "*"] if value <= 200 else ["+", "-"])
        if operation == "*":
            k = int(rng.integers(2, 5))
            wordings, value = wording.MULTIPLY, value * k
        elif operation == "+":
            k = int(rng.integers(2, 100))
            wordings, value = wording.ADD, value + k
        else:
            k = int(rng.integers(1, min(value, 100)))
            wordings, value = wording.SUBTRACT, value - k
        text.append(wordings[rng.integers(len(wordings))].format(n=name, k=k))
    text.append(f"How many {item} does {name} have now?")
    return " ".join(text)


def _bill_prompt(rng: np.random.Generator) -> str:
    goods = rng.choice(wording.GOODS, size=rng.integers(2, 4), replace=False)
    lines = [f"{rng.integers(2, 10)} {good} at {rng.integers(2, 40)}" for good in goods]
    return f"Bill: {', '.join(lines)}. What is the total?"


def _any_town(rng: np.random.Generator) -> str:
    towns = world().towns
    return towns[rng.integers(len(towns))]


def _topics(rng: np.random.Generator, verb: str) -> str:
    attributes = rng.permutation(ATTRIBUTES)[: rng.integers(4, 7)]
    return f"{verb} {_any_town(rng)}: {', '.join(attributes)}."


def _expansion_prompt(rng: np.random.Generator) -> str:
    town = _any_town(rng)
    attribute = ATTRIBUTES[rng.integers(len(ATTRIBUTES))]
    place = ("first", "then")[rng.integers(2)]
    return f"Expand {town}, {place}: {attribute} {world().facts[town][attribute]}."


_PROMPTS: dict[str, Callable[[np.random.Generator], str]] = {
    "fact": _fact_prompt,
    "problem": _problem_prompt,
    "bill": _bill_prompt,
    "description": lambda rng: _topics(rng, "Describe"),
    "sketch": lambda rng: _topics(rng, "Sketch"),
    "expansion": _expansion_prompt,
}


def sample(kind: str, rng: np.random.Generator, split: str = "train") -> Task:
    """Draw one task of a kind from a split (rejection sampling on the prompt's own split)."""
    if kind not in FORMS or split not in SPLITS:
        raise SettingError(f"no task kind {kind!r} in split {split!r}; kinds are {FORMS}, splits are {SPLITS}")
    while True:
        prompt = _PROMPTS[kind](rng)
        if split_of(prompt) == split:
            return Task(kind, prompt, solve(prompt))


def tasks(kind: str, split: str, count: int, seed: int = 0) -> list[Task]:
    """Return `count` distinct tasks of a kind and split, the same for the same seed.

    Raises:
        SettingError: there is no such kind or split, or it has fewer tasks.
    """
    one_of("kind", kind, FORMS)
    one_of("split", split, SPLITS)
    within("count", count, 1)
    within("seed", seed, 0)
    rng = np.random.default_rng([seed, FORMS.index(kind), SPLITS.index(split)])
    found: dict[str, Task] = {}
    again = 0  # draws since the last new one: so many without one mean that there is none
    while again < 2000 + 20 * len(found):
        task = sample(kind, rng, split)
        again = again + 1 if task.prompt in found else 0
        found.setdefault(task.prompt, task)
        if len(found) == count:
            return list(found.values())
    raise SettingError(f"the bundled world has fewer than {count} distinct {kind!r} prompts in split {split!r}")


def stream(rng: np.random.Generator, weights: dict[str, float], split: str = "train") -> Iterator[Task]:
    """Yield tasks for ever, kinds drawn in proportion to `weights`."""
    kinds, shares = list(weights), np.array(list(weights.values()), dtype=float)
    shares /= shares.sum()
    while True:
        yield sample(kinds[rng.choice(len(kinds), p=shares)], rng, split)


# ---------------------------------------------------------------- reference answers


_Parsed = tuple[str, tuple[str, ...]]  # town, attributes


def kind_of(prompt: str) -> str:
    """Return the form that a prompt belongs to.

    Raises:
        TaskError: the prompt is of no bundled kind.
    """
    first = prompt.split(" ", 1)[0]
    by_word = {"Bill:": "bill", "Describe": "description", "Sketch": "sketch", "Expand": "expansion"}
    if first in by_word:
        return by_word[first]
    if " has " in prompt and "How many" in prompt:
        return "problem"
    if _parse_fact(prompt) is not None:
        return "fact"
    raise TaskError(f"the prompt {prompt!r} is of none of the bundled kinds {FORMS}")


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


def _parse_topics(prompt: str) -> _Parsed:
    match = re.fullmatch(r"\w+ (\w+): ([\w, ]+)\.", prompt)
    attributes = tuple(match[2].split(", ")) if match else ()
    if not match or match[1] not in world().facts or not set(attributes) <= set(ATTRIBUTES):
        raise TaskError(f"cannot parse {prompt!r}; expected 'Describe TOWN: ATTRIBUTE, ATTRIBUTE.' with {ATTRIBUTES}")
    return match[1], attributes


def _solve_fact(prompt: str) -> str:
    parsed = _parse_fact(prompt)
    if parsed is None:
        raise TaskError(f"cannot parse {prompt!r} as a question about a town")
    town, attribute = parsed
    return wording.FACT_ANSWER.format(a=attribute, t=town, v=world().facts[town][attribute])


def _solve_problem(prompt: str) -> str:
    numbers = re.findall(r"(\d+)", prompt)
    sentences = prompt.split(". ")[1:-1]
    if not numbers or len(numbers) != len(sentences) + 1:
        raise TaskError(f"cannot parse {prompt!r} as a word problem")
    value, steps = int(numbers[0]), []
    for sentence, k in zip(sentences, map(int, numbers[1:]), strict=True):
        sign = "x" if "times" in sentence else "+" if "more" in sentence else "-"
        after = value * k if sign == "x" else value + k if sign == "+" else value - k
        steps.append(f"{value} {sign} {k} = {after}.")
        value = after
    return f"{' '.join(steps)} The answer is {value}."


def _solve_bill(prompt: str) -> str:
    total, steps = 0, []
    for quantity, good, price in re.findall(r"(\d+) (\w+) at (\d+)", prompt):
        cost = int(quantity) * int(price)
        total += cost
        steps.append(f"{quantity} {good} at {price} cost {cost}, so far {total}.")
    if not steps:
        raise TaskError(f"cannot parse {prompt!r} as a bill")
    return f"{' '.join(steps)} The total is {total}."


def _solve_description(prompt: str) -> str:
    town, attributes = _parse_topics(prompt)
    facts = world().facts[town]
    return " ".join(wording.SENTENCES[a][i % 2].format(t=town, v=facts[a]) for i, a in enumerate(attributes))


def _solve_sketch(prompt: str) -> str:
    town, attributes = _parse_topics(prompt)
    return "; ".join(f"{a} {world().facts[town][a]}" for a in attributes) + "."


def _solve_expansion(prompt: str) -> str:
    match = re.fullmatch(r"Expand (\w+), (first|then): (\w+) ([\w ]+)\.", prompt)
    if not match or match[3] not in ATTRIBUTES:
        raise TaskError(f"cannot parse {prompt!r}; expected 'Expand TOWN, first: ATTRIBUTE VALUE.'")
    return wording.SENTENCES[match[3]][match[2] == "then"].format(t=match[1], v=match[4])


_SOLVERS: dict[str, Callable[[str], str]] = {
    "fact": _solve_fact,
    "problem": _solve_problem,
    "bill": _solve_bill,
    "description": _solve_description,
    "sketch": _solve_sketch,
    "expansion": _solve_expansion,
}


def solve(prompt: str) -> str:
    """Return the reference answer of a prompt.

    Raises:
        TaskError: the prompt is of no bundled kind.
    """
    return _SOLVERS[kind_of(prompt)](prompt)
