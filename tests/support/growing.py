"""Sets of graphs that grow, from seeds in which hardly anything was recorded; and whether a grown graph says what a recorded one does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support.graphs import text_score
from traces.synera.graph import Graph, GraphSet
from traces.synera.graph_check import NODE_ARRAYS

if TYPE_CHECKING:  # tests without models do not wait for torch
    from traces.synera.growing import GrowingGraphs, LivingGraph
    from traces.synera.record_models import Models

CHILDREN = ("exit_child", "llm_child")


def bare(graphs: GraphSet) -> GraphSet:
    """The same prompts, of which nothing but what is said right after them was recorded."""
    cut = []
    for graph in graphs:
        arrays = {name: getattr(graph, name)[:1].copy() for name in NODE_ARRAYS}
        for name in CHILDREN:
            arrays[name][:] = -1
        cut.append(arrays | {"prompt_tokens": graph.prompt_tokens})
    meta = graphs.meta
    return GraphSet.build(type(meta)(**(vars(meta) | {"coverage": {"closed": 0.0}})), cut, graphs.lens_tensors)


def growing(
    models: Models,
    seed: GraphSet,
    score: Callable[[str, str], float] = text_score,
    node_limit: int | None = None,
    **runs: Any,
) -> GrowingGraphs:
    """A set that grows from a seed; see `PairRuns` for what else may be given."""
    from traces.synera.growing import NODE_LIMIT, GrowingGraphs
    from traces.synera.growing_runs import PairRuns

    return GrowingGraphs(seed, PairRuns(models, **runs), score, NODE_LIMIT if node_limit is None else node_limit)


def said_at(graph: Graph, node: int) -> list[int]:
    """The distinct tokens said at a node, those of the exits first."""
    return list(dict.fromkeys([*graph.exit_token[node].tolist(), int(graph.llm_token[node])]))


def hold_against(one: Graph, other: LivingGraph, most: int | None = None) -> Iterator[tuple[int, int]]:
    """Walk a recorded graph and one that grows side by side, node by node, and assert that they say the same.

    Args:
        one: closed.
        other: of the same prompt.
        most: nodes after which it ends; None is all.

    Yields:
        Each node, as both number it.
    """
    twin = {0: 0}
    for node in range(len(one)):
        if len(twin) <= node or node == most:
            return
        same = twin[node]
        yield node, same
        if not np.isnan(one.score[node]):
            assert abs(one.score[node] - other.score[same]) < 1e-6
            continue
        other.know(same)
        for name in ("exit_token", "llm_token", "runner_up"):
            np.testing.assert_array_equal(getattr(one, name)[node], getattr(other, name)[same])
        for name in ("confidence", "margin", "entropy", "llm_probability"):
            np.testing.assert_allclose(getattr(one, name)[node], getattr(other, name)[same], atol=1e-5)
        np.testing.assert_allclose(one.sketch[node].astype(float), other.sketch[same].astype(float), atol=0.02)
        for token in said_at(one, node):
            twin[one.child(node, token)] = other.reach(same, token)
