"""A growing graph, many nodes at a time: against the same graph grown node by node."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from traces.synera.graph_check import NODE_ARRAYS
from traces.synera.growing_graph import GrowingGraph, first_said


def figures(rng: np.random.Generator, nodes: int, exits: int) -> dict[str, NDArray[Any]]:
    """What a forward says; few tokens, so that some are said twice."""
    shape = (nodes, exits)
    drawn = {name: rng.random(shape) for name in ("confidence", "margin", "entropy", "llm_probability")}
    tokens = {"exit_token": rng.integers(4, size=shape), "runner_up": rng.integers(4, size=shape)}
    return {**drawn, **tokens, "llm_token": rng.integers(4, size=nodes), "sketch": rng.random((*shape, 16))}


@given(exits=st.integers(1, 3), waves=st.lists(st.integers(1, 12), max_size=6), seed=st.integers(0, 2**31))
def test_expanding_is_stepping_to_every_token_said(exits: int, waves: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = (GrowingGraph("p", "k", [1, 2], exits) for _ in range(2))
    for size in waves:
        leaves = np.flatnonzero(~one.ran[: len(one)])
        nodes = rng.permutation(leaves)[:size]
        told = figures(rng, len(nodes), exits)
        children = one.expand(nodes, told)
        assert children.shape == (len(nodes), exits + 1)
        assert one.ran[nodes].all()
        for node, row in zip(nodes, children, strict=True):
            assert row.tolist() == [*one.exit_child[node], one.llm_child[node]]
            said = [*one.exit_token[node].tolist(), int(one.llm_token[node])]
            assert one.token[row].tolist() == said
            assert (one.parent[row] == node).all()
            assert (one.depth[row] == one.depth[node] + 1).all()
            assert len(set(row.tolist())) == len(set(said))
            assert [one.step(int(node), token) for token in said] == row.tolist(), "nothing is added twice"
        # The same wave, node by node; a child that some node has is added there, too.
        other.write(nodes, told)
        for node in nodes:
            for token in dict.fromkeys([*one.exit_token[node].tolist(), int(one.llm_token[node])]):
                other.step(int(node), token)
        for name in NODE_ARRAYS:
            np.testing.assert_array_equal(getattr(one, name)[: len(one)], getattr(other, name)[: len(other)], err_msg=name)


def test_nothing_is_expanded_where_nothing_is_asked() -> None:
    graph = GrowingGraph("p", "k", [1], 2)
    assert graph.expand(np.empty(0, np.int64), figures(np.random.default_rng(0), 0, 2)).shape == (0, 3)
    assert len(graph) == 1
    assert graph.answers(np.empty(0, np.int64)) == []


@given(seed=st.integers(0, 2**31))
def test_answers_are_the_tokens_on_the_way(seed: int) -> None:
    rng, graph = np.random.default_rng(seed), GrowingGraph("p", "k", [1], 2)
    for _ in range(4):
        leaves = np.flatnonzero(~graph.ran[: len(graph)])[:5]
        graph.expand(leaves, figures(rng, len(leaves), 2))
    nodes = rng.permutation(len(graph))
    assert graph.answers(nodes) == [graph.answer(int(node)) for node in nodes]


def test_a_node_that_is_given_up_takes_the_ends_after_it_along() -> None:
    rng, graph = np.random.default_rng(1), GrowingGraph("p", "k", [1], 1)
    graph.expand(np.array([0]), figures(rng, 1, 1) | {"exit_token": np.array([[3]]), "llm_token": np.array([5])})
    graph.expand(np.array([1, 2]), figures(rng, 2, 1) | {"exit_token": np.array([[7], [7]]), "llm_token": np.array([7, 7])})
    graph.end(3, 0.25)
    graph.end(4, 0.75)
    graph.ran[2] = False
    arrays = graph.arrays()
    assert arrays["token"].tolist() == [-1, 3, 7]
    assert arrays["score"].tolist() == pytest.approx([np.nan, np.nan, 0.25], nan_ok=True)
    assert (arrays["exit_child"][:, 0].tolist(), arrays["llm_child"].tolist()) == ([1, 2, -1], [-1, 2, -1])


@pytest.mark.parametrize(
    ("exits", "llm", "first"), [([4, 5], 6, [0, 1, 2]), ([4, 4], 4, [0, 0, 0]), ([4, 5], 5, [0, 1, 1]), ([4, 4], 5, [0, 0, 2])]
)
def test_who_says_a_token_first(exits: list[int], llm: int, first: list[int]) -> None:
    assert first_said(np.array([exits]), np.array([llm])).tolist() == [first]
