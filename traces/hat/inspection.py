"""What a set of HAT's graphs holds, for a person: figures by kind of prompt.

What does not live here: files and arrays (graph.py), and what is printed (scripts/_hat_view.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from traces.hat.graph import HatGraph, HatGraphs


@dataclass(frozen=True)
class HatKindFigures:
    """The prompts of one kind; what answers say and draft is in the first precision."""

    prompts: int
    prompt_tokens: float
    """Of a prompt, on the mean."""
    prompt_tokens_most: int
    answer_tokens: float
    """Of an answer, on the mean."""
    answer_tokens_most: int
    cut: int
    """Answers that were cut: the model did not end them."""
    first_drafts_right: float
    """Share of the places of answers at which the first draft token is the model's."""
    accepted_drafts: float
    """Draft tokens that the model would keep of the longest draft, on the mean over those places."""
    score: float
    """Of an answer, on the mean."""


@dataclass(frozen=True)
class HatFigures:
    """A set of graphs; see :class:`HatKindFigures`."""

    prompts: int
    places: int
    """Tokens of all answers, in the first precision."""
    prompt_tokens: float
    answer_tokens: float
    first_drafts_right: float
    accepted_drafts: float
    accepted_by_place: tuple[float, ...]
    """By draft token, the share of the places at which it and those before it would be kept."""
    answers_changed: dict[str, float]
    """By each other precision, the share of answers that are other tokens in it than in the first."""
    scores: dict[str, float]
    """By precision, mean score."""
    kinds: dict[str, HatKindFigures]


def figures(graphs: HatGraphs) -> HatFigures:
    """Return what a set of graphs holds."""
    meta = graphs.meta
    by_precision = [[graphs.graph(number, place) for number in range(len(graphs))] for place in range(len(meta.precisions))]
    first, eos = by_precision[0], frozenset(meta.eos_ids)
    stood = np.concatenate([_stood(graph) for graph in first])
    changed = {
        name: float(np.mean([not np.array_equal(a.token, b.token) for a, b in zip(first, others, strict=True)]))
        for name, others in zip(meta.precisions[1:], by_precision[1:], strict=True)
    }
    kinds = {kind: _kind([graph for graph in first if graph.kind == kind], eos) for kind in dict.fromkeys(meta.kinds)}
    return HatFigures(
        prompts=len(graphs),
        places=sum(map(len, first)),
        prompt_tokens=float(np.mean([len(graph.prompt_tokens) for graph in first])),
        answer_tokens=float(np.mean([len(graph) for graph in first])),
        first_drafts_right=float(stood[:, 0].mean()),
        accepted_drafts=float(stood.sum(1).mean()),
        accepted_by_place=tuple(stood.mean(0).tolist()),
        answers_changed=changed,
        scores={
            name: float(np.mean([graph.score for graph in each]))
            for name, each in zip(meta.precisions, by_precision, strict=True)
        },
        kinds=kinds,
    )


def _kind(graphs: Sequence[HatGraph], eos_ids: frozenset[int]) -> HatKindFigures:
    stood = np.concatenate([_stood(graph) for graph in graphs])
    prompts, answers = [len(graph.prompt_tokens) for graph in graphs], [len(graph) for graph in graphs]
    return HatKindFigures(
        prompts=len(graphs),
        prompt_tokens=float(np.mean(prompts)),
        prompt_tokens_most=max(prompts),
        answer_tokens=float(np.mean(answers)),
        answer_tokens_most=max(answers),
        cut=sum(int(graph.token[-1]) not in eos_ids for graph in graphs),
        first_drafts_right=float(stood[:, 0].mean()),
        accepted_drafts=float(stood.sum(1).mean()),
        score=float(np.mean([graph.score for graph in graphs])),
    )


def _stood(graph: HatGraph) -> NDArray[np.bool_]:
    """Which draft tokens the model would keep at each place of the answer that has some, [places, drafted]: up to the first that differs."""
    drafted = graph.draft[:, :, 0]
    places, longest = drafted.shape
    said = np.full((places + longest,), -2, np.int32)  # neither a token nor a draft's end
    said[:places] = graph.token
    wanted = np.lib.stride_tricks.sliding_window_view(said, longest)[:places]
    return np.logical_and.accumulate(drafted == wanted, axis=1)[drafted[:, 0] >= 0]
