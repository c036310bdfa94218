"""What the pair says by the kind of a position: a value of the world, a digit of a sum, or a matter of wording.

Measured along the LLM's own answers, where a position is of the kind of the token that the LLM says there. What does not live
here: the kinds (traces/tasks/scorers.py), scores of whole answers and the card that states all this (card.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from traces.pair.exits import Exit, Said, exit_layers
from traces.tasks import scorers
from traces.tasks.scorers import PARTS

CONFIDENCE_BINS = (0.0, 0.3, 0.5, 0.7, 0.9, 0.99, 1.0)
"""Edges of the histogram."""
_NO_LOSS = 1e-6  # of score; more is one


def confidence_bins() -> list[str]:
    """Return the names of the bins of the histogram."""
    return [f"{low:g} to {high:g}" for low, high in pairwise(CONFIDENCE_BINS)]


@dataclass(frozen=True)
class Effect:
    """What it does to the score to let a token of the SLM stand where the LLM says another."""

    places: int
    loss: float
    """Of score, in the mean, when the LLM goes on to the end, against the LLM's own token."""
    harmless: float
    """Share of the places where nothing is lost so."""
    slm_loss: float
    """The same when the SLM goes on to the end, both times."""
    slm_harmless: float

    @classmethod
    def of(cls, losses: NDArray[np.float64]) -> Effect:
        """Take the losses of places, [places, 2]: with the LLM going on, and with the SLM."""
        mean, harmless = losses.mean(0), (losses <= _NO_LOSS).mean(0)
        return cls(len(losses), float(mean[0]), float(harmless[0]), float(mean[1]), float(harmless[1]))


@dataclass(frozen=True)
class Place:
    """One position of an LLM's answer, seen from one exit of the SLM."""

    part: str
    """One of :data:`traces.tasks.scorers.PARTS`."""
    confidence: float
    agrees: bool
    """The SLM says the LLM's token."""
    losses: tuple[float, float] | None = None
    """Of score by the SLM's token, with the LLM and with the SLM going on, 0 where it agrees; None where nothing was tried."""

    @property
    def harmless(self) -> bool:
        """Whether nothing is lost with the LLM going on, where that was tried."""
        return self.losses is not None and self.losses[0] <= _NO_LOSS


@dataclass(frozen=True)
class AtExit:
    """Every position of the LLM's answers, seen from one exit."""

    exit_layer: int
    places: tuple[Place, ...]

    def of(self, part: str) -> list[Place]:
        """Return the places of a kind."""
        return [place for place in self.places if place.part == part]

    def agreement(self, part: str) -> float:
        """Return the share of a kind's places where the SLM says the LLM's token; NaN where there are none."""
        return _mean(place.agrees for place in self.of(part))

    def histogram(self, part: str) -> list[float]:
        """Return the share of a kind's places in each of :data:`CONFIDENCE_BINS`; the last bin has both its ends."""
        counts, _ = np.histogram([place.confidence for place in self.of(part)], CONFIDENCE_BINS)
        return [float(count) for count in counts / max(1, counts.sum())]

    def effect(self, part: str) -> Effect | None:
        """Return what a wrong token does at a kind's places; None where none was tried."""
        losses = [place.losses for place in self.of(part) if place.losses is not None and not place.agrees]
        return Effect.of(np.array(losses)) if losses else None


@dataclass(frozen=True)
class Positions:
    """What the SLM says along the LLM's answers."""

    exits: tuple[AtExit, ...]
    """Shallow to deep."""
    answers: int
    tried: int
    """Of the answers, those in which wrong tokens were let stand."""
    unread: int
    """Answers left out, as their text does not give their tokens back."""


def token_parts(tokenizer: PreTrainedTokenizerFast, prompt: str, tokens: Sequence[int]) -> list[str] | None:
    """Return the kind of each token of an answer, <eos> included; None where its text does not give the tokens back."""
    bare = [token for token in tokens if token != tokenizer.eos_token_id]
    text = tokenizer.decode(bare, skip_special_tokens=True)
    read = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if read["input_ids"] != bare:
        return None
    parts = scorers.parts(prompt, text)
    return [parts[start] for start, _ in read["offset_mapping"]] + ["wording"] * (len(tokens) - len(bare))


def measure_positions(out: Path, prompts: Sequence[str], tried: Sequence[str]) -> Positions:
    """Lead the SLM along the LLM's greedy answers, and let its wrong tokens stand in some.

    Args:
        out: folder of `slm` and `llm`.
        prompts: of the bundled tasks.
        tried: those of them in whose answers wrong tokens are let stand, one at a time.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out / "llm")
    llm, asked = Exit(out / "llm"), [list(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    answers = llm.finish(asked, [[] for _ in prompts])
    led = [
        _Led(prompt, ids, answer, parts, prompt in set(tried))
        for prompt, ids, answer in zip(prompts, asked, answers, strict=True)
        if (parts := token_parts(tokenizer, prompt, answer)) is not None
    ]
    exits = tuple(_at_exit(Exit(out / "slm", layer), llm, tokenizer, led) for layer in exit_layers(out / "slm"))
    return Positions(exits, len(led), sum(each.tried for each in led), len(prompts) - len(led))


@dataclass(frozen=True)
class _Led:
    """An LLM's answer that the SLM is led along."""

    prompt: str
    ids: list[int]
    answer: list[int]
    parts: list[str]
    tried: bool


def _at_exit(slm: Exit, llm: Exit, tokenizer: PreTrainedTokenizerFast, led: Sequence[_Led]) -> AtExit:
    said = slm.read([each.ids for each in led], [each.answer for each in led])
    wrong = [
        (i, at)
        for i, each in enumerate(led)
        if each.tried
        for at in range(len(each.answer))
        if said[i].tokens[at] != each.answer[at]
    ]
    losses = dict(zip(wrong, _losses(slm, llm, tokenizer, led, said, wrong), strict=True))

    def place(i: int, at: int) -> Place:
        agrees = bool(said[i].tokens[at] == led[i].answer[at])
        lost = losses.get((i, at), (0.0, 0.0)) if led[i].tried else None
        return Place(led[i].parts[at], float(said[i].confidence[at]), agrees, lost)

    return AtExit(slm.layer, tuple(place(i, at) for i, each in enumerate(led) for at in range(len(each.answer))))


def _losses(
    slm: Exit,
    llm: Exit,
    tokenizer: PreTrainedTokenizerFast,
    led: Sequence[_Led],
    said: Sequence[Said],
    wrong: Sequence[tuple[int, int]],
) -> list[tuple[float, float]]:
    """What the SLM's token costs at places of answers, with the LLM and with the SLM going on."""
    prompts = [led[i].ids for i, _ in wrong]
    stands = [[*led[i].answer[:at], int(said[i].tokens[at])] for i, at in wrong]
    mended = [led[i].answer[: at + 1] for i, at in wrong]

    def scores(answers: Iterable[Sequence[int]]) -> NDArray[np.float64]:
        texts = [tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
        return np.array([scorers.score(led[i].prompt, text) for (i, _), text in zip(wrong, texts, strict=True)])

    with_llm = scores(led[i].answer for i, _ in wrong) - scores(llm.finish(prompts, stands))
    with_slm = scores(slm.finish(prompts, mended)) - scores(slm.finish(prompts, stands))
    return list(zip(with_llm.tolist(), with_slm.tolist(), strict=True))


def token_accuracy(exit_: Exit, tokenizer: PreTrainedTokenizerFast, tasks: Iterable[tuple[str, str]]) -> dict[str, float]:
    """Return the share of the tokens of given answers that a model says, led through them, by kind of position.

    Args:
        exit_: the model.
        tokenizer: its own.
        tasks: prompts and answers. Where an answer is free in wording, nobody can know all its tokens of that kind.
    """
    right: dict[str, list[bool]] = {part: [] for part in PARTS}
    asked = list(tasks)
    prompts = [tokenizer(prompt)["input_ids"] for prompt, _ in asked]
    answers = [[*tokenizer(answer, add_special_tokens=False)["input_ids"], exit_.eos] for _, answer in asked]
    for (prompt, _), answer, said in zip(asked, answers, exit_.read(prompts, answers), strict=True):
        for part, token, wanted in zip(
            token_parts(tokenizer, prompt, answer) or [], said.tokens.tolist(), answer, strict=False
        ):
            right[part].append(token == wanted)
    return {part: _mean(told) for part, told in right.items()}


def _mean(values: Iterable[bool]) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else float("nan")
