"""Answers told token by token: which came from the device, were checked, were corrected, over time with the link and the knobs.

From records, so replayed and live answers are told alike. What does not live here: the drawing (synera_env/picture.py).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.image import imsave

from agents.base import Controller
from agents.evaluation import Answered, PlannedAnswer, answer
from scripts._document import Picture, Told
from synera_env import DecisionEnv, Preference, Schema
from synera_env.picture import Look, draw, origins
from synera_env.radio import Radio
from synera_env.reward import reward_terms


@dataclass(frozen=True)
class _Session:
    records: Sequence[Any]
    answer: Sequence[int]


@dataclass(frozen=True)
class _Episode:
    """Of a finished answer, what its picture asks for."""

    session: Any
    prompt_tokens: Sequence[int]
    prompt: str
    kind: str
    text: Callable[[Sequence[int]], str]
    quality: float

    def score(self) -> float:
        return self.quality


def tell(
    name: str,
    title: str,
    prompt: str,
    answered: Answered,
    preference: Preference,
    text: Callable[[Sequence[int]], str],
    schema: Schema,
    radio: Radio | None = None,
) -> Told:
    """Tell an answer by its records.

    Args:
        name: of the picture's file.
        title: who answered, and where.
        prompt: its text.
        answered: the answer, with records.
        preference: that it was paid by.
        text: tokens to what they say.
        schema: of its knobs.
        radio: the network that it met; None where that is not known.
    """
    quality = answered.metrics.quality if answered.metrics else 0.0
    session = _Session(answered.records, answered.tokens)
    episode = _Episode(session, (), prompt, answered.kind, text, quality)
    paid: dict[str, float] = {}
    for place, record in enumerate(answered.records, 1):
        last = quality if place == len(answered.records) else 0.0
        for term, value in reward_terms(record.cost, last, preference).items():
            paid[term] = paid.get(term, 0.0) + value
    content = io.BytesIO()
    imsave(content, draw(episode, radio, paid, Look(schema.rows, lambda record: record.draft.confidence)), format="png")
    over = "link, round trip and outages, knobs" if radio else "knobs"
    return Told(
        title, prompt, _tokens(answered, text), Picture(name, f"{title}: confidence, {over} over time", content.getvalue())
    )


def tell_replayed(name: str, title: str, env: DecisionEnv, controller: Controller, planned: PlannedAnswer) -> Told:
    """Answer once more, in replay, and tell it."""
    answered = answer(env, controller, planned)
    meta = env.graphs.meta  # type: ignore[attr-defined]
    prompt, text = meta.prompts[planned.prompt], env.graphs.text  # type: ignore[attr-defined]
    return tell(name, title, prompt, answered, planned.preference, text, env.schema, env.radio)


def _tokens(answered: Answered, text: Callable[[Sequence[int]], str]) -> list[tuple[str, str, str]]:
    """What each token adds to the text, where it comes from, and what was decided of its chunk."""
    told: list[tuple[str, str, str]] = []
    tokens: list[int] = []
    before = ""
    for number, record in enumerate(answered.records, 1):
        decided = f"chunk {number}, confidence {record.draft.confidence:.2f}, settled at {record.committed_at:.2f} s"
        for token, origin in zip(record.committed, origins(record), strict=True):
            tokens.append(token)
            whole = text(tokens)
            told.append((whole[len(before) :], origin, f"{decided}: {origin}"))
            before = whole
    return told
