"""What makes a chunk important, fitted on recorded graphs: which tokens the LLM rejects, and how chunks then compare.

What does not live here: the tables and what is made of them (runtime/synera/lens.py), and what sketches are made with, which
must be known before a graph is written (record_builder.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from runtime.synera.knobs import MAX_DRAFT_LENGTH
from runtime.synera.lens import QUANTILES, Lens, chunk_importance, clues
from traces.synera.graph import Graph, GraphSet

_WALKS = 3  # answers of each prompt that chunks of one length are met in
_RIDGE = 1.0
_NEWTON_STEPS = 25


def fit_importance(lens: Lens, graphs: GraphSet) -> Lens:
    """Return the lens with the tables that importance is made with.

    Chunks are met as in answers that offload half of them by chance, drafted at the last exit; so chunks that few answers
    come by count little. What every other exit says at the same places is learned from, too.

    Args:
        lens: whose sketches the graphs hold.
        graphs: of the prompts to fit on.
    """
    rng = np.random.default_rng(0)
    met = {
        length: [(graph, nodes) for graph in graphs for _ in range(_WALKS) for nodes in _chunks(graph, length, rng)]
        for length in range(1, MAX_DRAFT_LENGTH + 1)
    }
    every = [chunk for chunks in met.values() for chunk in chunks]
    if not every:
        return lens
    weights = []
    for exit_index in range(len(graphs.meta.exit_layers)):
        told = np.concatenate([_clues(graph, nodes, exit_index) for graph, nodes in every])
        other = np.concatenate([graph.exit_token[nodes, exit_index] != graph.llm_token[nodes] for graph, nodes in every])
        weights.append(_logistic(told, other.astype(np.float64)))
    fitted = replace(lens, rejection=np.stack(weights).astype(np.float32))
    table = np.zeros_like(lens.importance)  # where nothing was met, all are important
    for length, chunks in met.items():
        raw = [
            chunk_importance(fitted.rejected(-1, _clues(graph, nodes, -1))) for graph, nodes in chunks if len(nodes) == length
        ]
        if raw:
            table[length] = np.quantile(raw, np.linspace(0, 1, QUANTILES))
    return replace(fitted, importance=table)


def _chunks(graph: Graph, length: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Walk through one answer; yield, for each chunk, the nodes at which its tokens were said. Ends where nothing was recorded."""
    node = 0
    while node >= 0 and np.isnan(graph.score[node]):
        nodes, end = [node], int(graph.exit_child[node, -1])
        while len(nodes) < length and end >= 0 and np.isnan(graph.score[end]):
            nodes.append(end)
            end = int(graph.exit_child[end, -1])
        yield np.array(nodes)
        if rng.random() < 0.5:
            rejected = [n for n in nodes if graph.exit_token[n, -1] != graph.llm_token[n]]
            if rejected or (end >= 0 and np.isnan(graph.score[end])):
                end = int(graph.llm_child[rejected[0] if rejected else end])
        node = end


def _clues(graph: Graph, nodes: NDArray[np.intp], exit_index: int) -> NDArray[np.float64]:
    felt = (graph.confidence, graph.margin, graph.entropy, graph.sketch)
    return clues(*(values[nodes, exit_index] for values in felt))


def _logistic(told: NDArray[np.float64], happened: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fit the weights of a logistic model by Newton's method, with a ridge that keeps what is always or never so finite."""
    weights = np.zeros(told.shape[1])
    for _ in range(_NEWTON_STEPS):
        likely = 1 / (1 + np.exp(-np.clip(told @ weights, -30, 30)))
        slope = told.T @ (likely - happened) + _RIDGE * weights
        curvature = (told.T * (likely * (1 - likely))) @ told + _RIDGE * np.eye(len(weights))
        weights -= np.linalg.solve(curvature, slope)
    return weights
