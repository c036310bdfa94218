"""The bundled tasks: prompts about a generated world, answered in words that are free, scored by content.

What lives here: prompts, tasks, splits. What does not: the world (world.py), what an answer states and how it is worded
(answers.py), scores (scorers.py), the words (wording.py), their tokenizer (vocabulary.py), models, recorded traces.

Splits are a property of the prompt text (:func:`split_of`), hence disjoint by construction; facts are learned by heart, by
design.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from runtime.errors import SettingError
from runtime.settings import one_of, within
from traces.tasks import wording
from traces.tasks.answers import worded
from traces.tasks.wording import ATTRIBUTES
from traces.tasks.world import world

KINDS = ("fact", "problem", "bill", "description")
"""The four scored task kinds."""
FORMS = (*KINDS, "sketch", "expansion")
"""The kinds and the two sketch forms of a description (prompt to key facts; key facts of a sentence to the sentence)."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Task:
    """One prompt of the bundled world."""

    kind: str
    """One of :data:`FORMS`."""
    prompt: str
    answer: str
    """An answer that scores 1.0."""


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
    stated = world().facts[_any_town(rng)][attribute]  # anyone's: to expand is to word what is given, true or not
    return f"Expand {town}: {attribute} {stated}."


_PROMPTS: dict[str, Callable[[np.random.Generator], str]] = {
    "fact": _fact_prompt,
    "problem": _problem_prompt,
    "bill": _bill_prompt,
    "description": lambda rng: _topics(rng, "Describe"),
    "sketch": lambda rng: _topics(rng, "Sketch"),
    "expansion": _expansion_prompt,
}


def sample(kind: str, rng: np.random.Generator, split: str = "train", freedom: float = 0.0) -> Task:
    """Draw one task of a kind from a split (rejection sampling on the prompt's own split).

    Args:
        kind: one of :data:`FORMS`.
        rng: what it is drawn by.
        split: one of :data:`SPLITS`.
        freedom: of the answer's wording, as in :func:`traces.tasks.answers.worded`.

    Raises:
        SettingError: there is no such kind or split, or the freedom is none.
    """
    if kind not in FORMS or split not in SPLITS:
        raise SettingError(f"no task kind {kind!r} in split {split!r}; kinds are {FORMS}, splits are {SPLITS}")
    while True:
        prompt = _PROMPTS[kind](rng)
        if split_of(prompt) == split:
            return Task(kind, prompt, worded(prompt, rng, freedom))


def tasks(kind: str, split: str, count: int, seed: int = 0) -> list[Task]:
    """Return `count` distinct tasks of a kind and split, canonically answered, the same for the same seed.

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


def stream(rng: np.random.Generator, weights: dict[str, float], split: str = "train", freedom: float = 0.0) -> Iterator[Task]:
    """Yield tasks for ever, kinds drawn in proportion to `weights`, answers worded with `freedom`."""
    kinds, shares = list(weights), np.array(list(weights.values()), dtype=float)
    shares /= shares.sum()
    while True:
        yield sample(kinds[rng.choice(len(kinds), p=shares)], rng, split, freedom)
