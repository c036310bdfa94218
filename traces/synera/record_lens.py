"""The lens, fitted: what sketches are made with before graphs are recorded, and what makes a chunk important once they are.

What does not live here: the tables and what is made of them (runtime/synera/lens.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from runtime.synera.knobs import MAX_DRAFT_LENGTH
from runtime.synera.lens import QUANTILES, Lens, clues
from traces.synera.graph import GraphSet
from traces.synera.laid import Laid
from traces.synera.record_batch import Batch
from traces.synera.record_models import Models
from traces.tasks.splits import Prompt

_WALKS = 3  # answers of each prompt that chunks of one length are met in
_RIDGE = 1.0
_NEWTON_STEPS = 25


def fit_directions(models: Models, prompts: Sequence[Prompt], max_new_tokens: int, nodes: int, together: int) -> Lens:
    """Fit what sketches are made with, on what the SLM feels at the likeliest nodes of some prompts.

    Args:
        models: the pair.
        prompts: at least one.
        max_new_tokens: where answers are cut.
        nodes: of all prompts, at least one each.
        together: prompts whose caches are held at a time.
    """
    waves: list[NDArray[np.float32]] = []
    for first in range(0, len(prompts), together):
        some = prompts[first : first + together]
        batch = Batch(models, None, some, max_new_tokens, max(len(some), nodes * len(some) // len(prompts)))
        batch.expand()
        waves += batch.hidden
    hidden = np.concatenate(waves)  # [nodes, exits, hidden]
    return Lens.of_states([hidden[:, exit_index] for exit_index in range(hidden.shape[1])])


def fit_importance(lens: Lens, graphs: GraphSet) -> Lens:
    """Return the lens with the tables that importance is made with.

    Chunks are met as in answers that offload half of them by chance, drafted at the last exit; so chunks that few answers
    come by count little. What every other exit says at the same places is learned from, too.

    Args:
        lens: whose sketches the graphs hold.
        graphs: of the prompts to fit on; walks end where nothing was recorded.
    """
    laid, rng = Laid(graphs), np.random.default_rng(0)
    starts = np.repeat(laid.roots, _WALKS)
    met = {
        length: np.concatenate([np.empty((0, length), np.int64), *chunks(laid, starts, length, rng)])
        for length in range(1, MAX_DRAFT_LENGTH + 1)
    }
    every = np.concatenate([nodes[nodes >= 0] for nodes in met.values()])
    if not len(every):
        return lens
    nodes, count = np.unique(every, return_counts=True)
    told = clues_of(laid)
    rejected = laid.of("exit_token") != laid.of("llm_token")[:, None]
    weights = [_logistic(told[nodes, e], rejected[nodes, e], count) for e in range(told.shape[1])]
    fitted = replace(lens, rejection=np.stack(weights).astype(np.float32))
    table = np.zeros_like(lens.importance)  # where nothing was met, all are important
    stands = 1 - fitted.rejected(-1, told[:, -1])
    for length, chunk in met.items():
        whole = chunk[(chunk >= 0).all(1)]
        if len(whole):
            table[length] = np.quantile(1 - stands[whole].prod(1), np.linspace(0, 1, QUANTILES))
    return replace(fitted, importance=table)


def clues_of(laid: Laid) -> NDArray[np.float64]:
    """Return what rejections are told from, [nodes, exits, CLUES]."""
    return clues(*(laid.of(name) for name in ("confidence", "margin", "entropy", "sketch")))


def chunks(laid: Laid, nodes: NDArray[np.int64], length: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Walk from some nodes on, through one answer each; yield the next chunk of every walk that is not over.

    Yields:
        [walks, length]: the nodes at which a chunk's tokens were said, -1 after its end.
    """
    exit_token, llm_token = laid.of("exit_token")[:, -1], laid.of("llm_token")
    while len(nodes := nodes[nodes >= 0]) and len(nodes := nodes[~laid.ended[nodes]]):
        chunk, at = np.full((len(nodes), length), -1), nodes
        for place in range(length):
            going = (at >= 0) & ~laid.ended[at]
            chunk[going, place] = at[going]
            at = np.where(going, laid.child[at, -2], at)
        yield chunk
        other = (chunk >= 0) & (exit_token[chunk] != llm_token[chunk])
        first = np.take_along_axis(chunk, other.argmax(1)[:, None], 1)[:, 0]
        goes_on = (at >= 0) & ~laid.ended[at]
        judged = np.where(other.any(1), laid.child[first, -1], np.where(goes_on, laid.child[at, -1], at))
        nodes = np.where(rng.random(len(nodes)) < 0.5, judged, at)


def _logistic(told: NDArray[np.float64], happened: NDArray[np.bool_], count: NDArray[np.integer]) -> NDArray[np.float64]:
    """Fit the weights of a logistic model by Newton's method, with a ridge that keeps what is always or never so finite.

    Args:
        told: [places, clues].
        happened: [places].
        count: how often each was met [places].
    """
    weights = np.zeros(told.shape[1])
    for _ in range(_NEWTON_STEPS):
        likely = 1 / (1 + np.exp(-np.clip(told @ weights, -30, 30)))
        slope = told.T @ (count * (likely - happened)) + _RIDGE * weights
        curvature = (told.T * (count * likely * (1 - likely))) @ told + _RIDGE * np.eye(len(weights))
        weights -= np.linalg.solve(curvature, slope)
    return weights
