"""Which of several candidates for a part is best: how likely its writer found it, and how much of the sketch it says.

PICE's paper scores an ensemble of small models; its formula is not public to us, so this one is ours. What does not live here: who writes the candidates
(workers.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.pice.lines import Line
from runtime.settings import within

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Candidate:
    """A text for a part."""

    text: str
    log_probability: float
    """Of all its tokens, by the model that wrote it; nats."""
    tokens: int
    """That were written, its end among them."""
    worker: int = 0
    """Number of the worker that wrote it."""


@dataclass(frozen=True)
class Weights:
    """Of the two terms of a score.

    Raises:
        SettingError: one is negative or not finite.
    """

    likelihood: float = 1.0
    agreement: float = 1.0

    def __post_init__(self) -> None:
        within("likelihood", self.likelihood, 0)
        within("agreement", self.agreement, 0)


def likelihood(candidate: Candidate) -> float:
    """Return the mean log-probability of a candidate's tokens, nats, 0 at most; so a long text is no worse than a short one."""
    return candidate.log_probability / max(1, candidate.tokens)


def agreement(text: str, lines: Sequence[Line]) -> float:
    """Return which share of the words of some lines and of their headings a text says, each as often as they do; 1 where they have none. In 0..1."""
    wanted = Counter(word for line in lines for word in _words(line.text))
    wanted |= Counter({word: 1 for line in lines for word in _words(line.heading)})
    if not wanted:
        return 1.0
    return (wanted & Counter(_words(text))).total() / wanted.total()


def score(candidate: Candidate, lines: Sequence[Line], weights: Weights) -> float:
    """Return what a candidate is worth: its weighted likelihood and agreement. Ours."""
    return weights.likelihood * likelihood(candidate) + weights.agreement * agreement(candidate.text, lines)


def best(candidates: Sequence[Candidate], lines: Sequence[Line], weights: Weights) -> int:
    """Return the place of the candidate with the highest score, the first of several; there must be one."""
    scores = [score(candidate, lines, weights) for candidate in candidates]
    return scores.index(max(scores))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())
