"""The mixture of controllers: laws of masses, and each habit against controllers of its kind that walk a graph by chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.synera.graph import Graph, GraphSet
from traces.synera.record_habits import _CHUNK, _USUAL_DOUBT, HABITS, Habit, Mixture

WALKS = 4000


@given(exits=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_no_child_is_likelier_than_its_node_and_none_has_less_than_nothing(exits: int, seed: int) -> None:
    rng, mixture = np.random.default_rng(seed), Mixture(exits)
    assert mixture.start.sum() == pytest.approx(1)
    mass = rng.random((20, *mixture.start.shape)) * mixture.start.sum(0)
    tokens = rng.integers(3, size=(20, exits + 1))
    confidence = rng.random((20, exits))
    children = mixture.children(mass, tokens[:, :-1], tokens[:, -1], confidence, confidence * rng.random((20, exits)))
    whole = mass.sum((1, 2))
    assert (children >= -1e-12).all()
    assert (children.sum((2, 3)) <= whole[:, None] * (1 + 1e-12)).all()
    # What does not go on is what was caught: a draft that is rejected has two ways, and at its chunk's end one of them none.
    assert (children.sum((1, 2, 3)) <= 2 * whole).all()
    for row, said in zip(children, tokens, strict=True):
        for source in range(exits + 1):
            if said[source] in said[:source]:
                assert not row[source].any(), "the first that says a token has its whole mass"
            else:
                assert row[source].any()


def reached(graph: Graph, habits: Sequence[Habit]) -> np.ndarray:
    """How likely each node is, [nodes], by the mixture."""
    mixture = Mixture(graph.exit_token.shape[1], habits)
    mass = np.zeros((len(graph), *mixture.start.shape))
    mass[0] = mixture.start
    for node in np.flatnonzero(np.isnan(graph.score)):
        one = slice(node, node + 1)
        told = graph.exit_token[one], graph.llm_token[one], graph.confidence[one], graph.margin[one]
        children = mixture.children(mass[one], *told)[0]
        for source, child in enumerate((*graph.exit_child[node], graph.llm_child[node])):
            mass[child] += children[source]
    return mass.sum((1, 2))


def walked(graph: Graph, habit: Habit, rng: np.random.Generator) -> set[int]:
    """The nodes that one controller of a habit comes to: it drafts, has chunks checked, and goes on."""
    exits = graph.exit_token.shape[1]

    def chosen() -> tuple[int, bool]:
        reach = {"shallow": max(1, exits - 1), "any": exits}.get(habit.exits)
        return (exits - 1 if reach is None else int(rng.integers(reach))), habit.exits in ("margin", "any")

    def draft(node: int) -> int:
        level = rng.random() if early else 2.0
        return next((e for e in range(deepest) if graph.margin[node, e] >= level), deepest)

    seen, node, (deepest, early) = {0}, 0, chosen()
    while np.isnan(graph.score[node]):
        bonus = habit.always + _USUAL_DOUBT * habit.doubt
        if rng.random() < 1 / _CHUNK:  # a chunk is over; with its check the LLM's token stands
            if rng.random() < bonus:
                node, (deepest, early) = int(graph.llm_child[node]), chosen()
                seen.add(node)
                continue
            deepest, early = chosen()
        left = draft(node)
        child = int(graph.exit_child[node, left])
        seen.add(child)
        caught = habit.always + habit.doubt * (1 - graph.confidence[node, left])
        if graph.exit_token[node, left] == graph.llm_token[node] or rng.random() >= caught:
            node = child
            continue
        while np.isnan(graph.score[child]) and rng.random() >= 1 / _CHUNK:  # drafts on, in vain
            child = int(graph.exit_child[child, draft(child)])
            seen.add(child)
        node, (deepest, early) = int(graph.llm_child[node]), chosen()
        seen.add(node)
    return seen


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: f"{habit.exits}-{habit.always:g}-{habit.doubt:g}")
def test_a_habit_comes_to_nodes_as_often_as_its_mass_says(akin_graphs: GraphSet, habit: Habit) -> None:
    graph, rng = akin_graphs[1], np.random.default_rng(5)
    count = np.zeros(len(graph))
    for _ in range(WALKS):
        count[list(walked(graph, habit, rng))] += 1
    likely = reached(graph, [habit])
    assert (count > 0).sum() > 3
    # Five deviations of the count, and one walk; a node that can be come to twice in a walk is counted once.
    assert (np.abs(count - WALKS * likely) <= 5 * np.sqrt(WALKS * likely * (1 - likely).clip(0.01)) + 1).all()


def test_whoever_never_checks_stays_on_the_last_exit_s_path(akin_graphs: GraphSet) -> None:
    for graph in akin_graphs:
        likely, node = reached(graph, [Habit(1, "last")]), 0
        while np.isnan(graph.score[node]):
            node = int(graph.exit_child[node, -1])
            assert likely[node] == pytest.approx(1)
        assert likely.sum() == pytest.approx(1 + graph.depth[node])


def test_shares_are_held_against_each_other(akin_graphs: GraphSet) -> None:
    one, other = Habit(1, "last"), Habit(3, "shallow", doubt=1.0)
    mixed = reached(akin_graphs[0], [one, other])
    np.testing.assert_allclose(mixed, 0.25 * reached(akin_graphs[0], [one]) + 0.75 * reached(akin_graphs[0], [other]))
