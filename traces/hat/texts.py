"""What is read back in measuring: prompts and answers of the bundled world, token by token, each with its place.

A **place** is whose text a token is in, the prompt's or the answer's, and what it is there: a fact (a name or a thing of the
world), a digit, or wording. What does not live here: models and attacks (inversion.py), shares (recovery.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice

import numpy as np
from tokenizers import Tokenizer

from traces.tasks import wording
from traces.tasks.tinyworld import KINDS, sample, tasks
from traces.tasks.world import world

PARTS = ("fact", "digit", "wording")
"""What a token is."""
SIDES = ("prompt", "answer")
"""Whose text it is in."""
FRAME = ""
"""The place of what a tokenizer puts around every prompt: known to all, so never counted."""
_WORD = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class Text:
    """A prompt and its answer, as a model reads them."""

    prompt: str
    ids: tuple[int, ...]
    places: tuple[str, ...]
    """Of each token, `SIDE PART`, or :data:`FRAME`."""


@cache
def world_words() -> frozenset[str]:
    """Return the words of which names, values and things of the bundled world are made."""
    stated = (value for facts in world().facts.values() for value in facts.values())
    words = {word for value in stated for word in _WORD.findall(value)}
    return frozenset(words | {*world().towns, *wording.FIRST, *wording.LAST, *wording.ITEMS, *wording.GOODS})


def parts(text: str) -> list[str]:
    """Return what each character of a text is, one of :data:`PARTS`; told by the word alone that it is in."""
    found = ["digit" if character.isdigit() else "wording" for character in text]
    for word in _WORD.finditer(text):
        if word[0] in world_words():
            found[word.start() : word.end()] = ["fact"] * len(word[0])
    return found


def read(tokenizer: Tokenizer, prompt: str, answer: str) -> Text:
    """Return a prompt and an answer as tokens with their places; the end of the answer is no token of it."""
    ids: list[int] = []
    places: list[str] = []
    for side, text in zip(SIDES, (prompt, answer), strict=True):
        encoded, of_text = tokenizer.encode(text, add_special_tokens=side == "prompt"), parts(text)
        ids += encoded.ids
        for (_, stop), added in zip(encoded.offsets, encoded.special_tokens_mask, strict=True):
            places.append(
                FRAME if added else f"{side} {of_text[max(stop, 1) - 1]}"
            )  # the last character: the first may be a space
    return Text(prompt, tuple(ids), tuple(places))


def public_texts(tokenizer: Tokenizer, count: int, seed: int) -> list[Text]:
    """Return so many texts that anyone may have: training prompts with answers in any wording, the kinds in turn."""
    rng = np.random.default_rng(seed)
    drawn = (sample(kind, rng, "train", freedom=1.0) for kind in islice(cycle(KINDS), count))
    return [read(tokenizer, task.prompt, task.answer) for task in drawn]


def private_prompts(count: int, seed: int) -> list[str]:
    """Return so many different test prompts, the kinds in turn; none of them is ever in :func:`public_texts`.

    Raises:
        SettingError: there are not so many.
    """
    places = [(KINDS[i % len(KINDS)], i // len(KINDS)) for i in range(count)]
    most = {kind: number + 1 for kind, number in places}
    of_kind = {kind: tasks(kind, "test", number, seed) for kind, number in most.items()}
    return [of_kind[kind][number].prompt for kind, number in places]
