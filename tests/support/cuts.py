"""Graphs with nodes taken out, as a recorder leaves them that has met its budget: open ones, made of any others.

What does not live here: recording (tests/support/graphs.py).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from traces.synera.graph import Graph, GraphSet
from traces.synera.graph_check import NODE_ARRAYS


def without(graphs: GraphSet, dropped: NDArray[np.bool_]) -> GraphSet:
    """Take out nodes, and all that lies behind them; what led to them is -1.

    Args:
        graphs: any; stays as it is.
        dropped: of all graphs' nodes laid end to end, [nodes]; a prompt's own node cannot be taken out.
    """
    parts, start = [], 0
    for graph in graphs:
        gone = dropped[start : start + len(graph)].copy()
        start += len(graph)
        if gone[0]:
            raise ValueError("a prompt's own node cannot be taken out")
        for node in range(1, len(graph)):  # a parent comes before its children
            gone[node] |= gone[graph.parent[node]]
        renumber = np.append(np.where(gone, -1, np.cumsum(~gone) - 1), -1).astype(np.int32)  # the last entry keeps -1 at -1
        arrays = {name: np.asarray(getattr(graph, name))[~gone] for name in NODE_ARRAYS}
        arrays |= {name: renumber[arrays[name]] for name in ("parent", "exit_child", "llm_child")}
        parts.append(arrays | {"prompt_tokens": graph.prompt_tokens})
    return GraphSet.build(graphs.meta, parts, graphs.lens_tensors)


def likeliest(graphs: GraphSet, share: float) -> GraphSet:
    """Keep that share of each graph's nodes, the likeliest ones where each token is an exit's or the LLM's by a fair draw."""
    dropped = []
    for graph in graphs:
        gone = np.ones(len(graph), bool)
        gone[np.argsort(-_likelihoods(graph), kind="stable")[: max(1, round(share * len(graph)))]] = False
        dropped.append(gone)
    return without(graphs, np.concatenate(dropped))


def holed(graphs: GraphSet, share: float, seed: int = 0, from_depth: int = 1) -> GraphSet:
    """Take out that share of the nodes at random, those nearer to the prompt than `from_depth` excepted."""
    rng = np.random.default_rng(seed)
    depth = np.concatenate([graph.depth for graph in graphs])
    return without(graphs, (rng.random(len(depth)) < share) & (depth >= max(1, from_depth)))


def _likelihoods(graph: Graph) -> NDArray[np.float64]:
    """Log-likelihood of reaching each node by fair draws among the exits and the LLM."""
    found = np.full(len(graph), -np.inf)
    found[0] = 0.0
    for node in range(len(graph)):
        children = np.array([*graph.exit_child[node], graph.llm_child[node]])
        for child in set(children[children >= 0].tolist()):
            found[child] = found[node] + np.log((children == child).mean())
    return found
