"""Long prompts of the bundled world: a question behind the exchanges of a dialogue so far.

What does not live here: the tasks (traces/tasks/tinyworld.py) and models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from traces.tasks import tinyworld

_TOKEN = re.compile(r"[A-Za-z<>]+|\d|[^\w\s]")
_SEED = 71


@dataclass(frozen=True)
class Dialogue:
    """A prompt whose last exchange is a task."""

    text: str
    """All of it, as the bundled tokenizer marks exchanges."""
    question: str
    """The task's own prompt."""
    kind: str
    exchanges: int
    """Before the question."""


def dialogues(
    split: str, per_kind: int, *, most_exchanges: int = 4, longest_tokens: int = 200, seed: int = 0
) -> list[Dialogue]:
    """Return dialogues whose questions are of a split, the same number of each kind, with 0 to `most_exchanges` exchanges before them in turn.

    Args:
        split: of the questions; the exchanges before are of the training's.
        per_kind: questions of each kind.
        most_exchanges: before a question.
        longest_tokens: of a prompt, about; the exchanges that would make it longer are left out. The bundled LLM scores as well behind 200
            tokens as behind none, and falls off behind 300.
        seed: of all draws.
    """
    rng = np.random.default_rng([_SEED, seed, tinyworld.SPLITS.index(split)])
    before = [task for kind in tinyworld.KINDS for task in tinyworld.tasks(kind, "train", 50, seed)]
    found = []
    for kind in tinyworld.KINDS:
        for number, task in enumerate(tinyworld.tasks(kind, split, per_kind, seed)):
            exchanges, room = list[str](), longest_tokens - _tokens(task.prompt)
            for _ in range(number % (most_exchanges + 1)):
                earlier = before[int(rng.integers(len(before)))]
                said = f"{earlier.prompt} <ans> {earlier.answer} <eos> <bos>"
                if (size := _tokens(said)) > room:
                    break
                room -= size
                exchanges.append(said)
            found.append(Dialogue(" ".join([*exchanges, task.prompt]), task.prompt, kind, len(exchanges)))
    return found


def _tokens(text: str) -> int:
    return len(_TOKEN.findall(text))
