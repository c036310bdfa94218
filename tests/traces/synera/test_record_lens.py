"""What importance is fitted on: planted rejections are found, and chunks that are met are as important as the table says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from runtime.synera.lens import Lens, chunk_importance
from tests.support.graphs import RANDOM_NEW_TOKENS, record_tiny
from traces.synera.graph import Graph, GraphSet
from traces.synera.graph_check import NODE_ARRAYS
from traces.synera.record_lens import _chunks, _clues, fit_importance
from traces.synera.record_models import Models


def changed(graphs: GraphSet, change: Any) -> GraphSet:
    """The same graphs, each with its arrays changed."""
    per_graph = []
    for graph in graphs:
        arrays = {name: np.array(getattr(graph, name)) for name in NODE_ARRAYS}
        change(arrays)
        per_graph.append(arrays | {"prompt_tokens": graph.prompt_tokens})
    return GraphSet.build(graphs.meta, per_graph, graphs.lens_tensors)


def met(graphs: GraphSet, length: int, seed: int = 9) -> list[tuple[Graph, NDArray[np.intp]]]:
    rng = np.random.default_rng(seed)
    return [(graph, nodes) for graph in graphs for _ in range(20) for nodes in _chunks(graph, length, rng)]


def importance(lens: Lens, graph: Graph, nodes: NDArray[np.intp]) -> float:
    return chunk_importance(lens.rejected(-1, _clues(graph, nodes, -1)))


def rejected(graph: Graph, nodes: NDArray[np.intp]) -> bool:
    return bool((graph.exit_token[nodes, -1] != graph.llm_token[nodes]).any())


def test_what_tells_a_rejection_is_found_wherever_it_lies(akin_graphs: GraphSet) -> None:
    def plant(arrays: dict[str, NDArray[Any]]) -> None:
        arrays["sketch"][:, :, 7] = np.where(arrays["exit_token"] != arrays["llm_token"][:, None], 2, -2)

    planted = changed(akin_graphs, plant)
    lens = fit_importance(Lens.from_tensors(akin_graphs.lens_tensors), planted)
    assert (np.abs(lens.rejection).argmax(1) == 5 + 7).all()
    raw = {kind: [importance(lens, g, n) for g, n in met(planted, 3) if rejected(g, n) == kind] for kind in (True, False)}
    assert min(raw[True]) > max(raw[False])


def test_rejections_are_as_frequent_as_they_are_held_for(akin_graphs: GraphSet) -> None:
    lens = Lens.from_tensors(akin_graphs.lens_tensors)
    chunks = met(akin_graphs, 4)
    for exit_index in (0, 1):
        held = np.concatenate([lens.rejected(exit_index, _clues(g, n, exit_index)) for g, n in chunks])
        seen = np.concatenate([g.exit_token[n, exit_index] != g.llm_token[n] for g, n in chunks])
        assert held.mean() == pytest.approx(seen.mean(), abs=0.05)
        assert 0 < seen.mean() < 1


@pytest.mark.parametrize("length", [1, 3, 4])
def test_a_quantile_is_the_share_of_chunks_that_are_less_important(akin_graphs: GraphSet, length: int) -> None:
    lens = Lens.from_tensors(akin_graphs.lens_tensors)
    raw = np.array([importance(lens, g, n) for g, n in met(akin_graphs, length) if len(n) == length])
    for share in (0.25, 0.5, 0.75):
        assert (raw < lens.importance[length, round(100 * share)]).mean() == pytest.approx(share, abs=0.12)


def test_a_length_that_no_answer_has_is_unknown(tiny_graphs: GraphSet) -> None:
    """What an answer's end cut short does not count for it."""
    table = Lens.from_tensors(tiny_graphs.lens_tensors).importance
    assert [length for length in range(9) if table[length].any()] == [1, 2, 3, 4, 5, RANDOM_NEW_TOKENS]


def test_chunks_are_those_of_a_session(akin_graphs: GraphSet) -> None:
    """As long as asked for, but at an answer's end; each begins where the one before was kept or corrected."""
    lengths = set()
    for graph in akin_graphs:
        chunks = list(_chunks(graph, 3, np.random.default_rng(1)))
        assert chunks[0][0] == 0
        for nodes, after in zip(chunks, [*(c[0] for c in chunks[1:]), None], strict=True):
            lengths.add(len(nodes))
            assert np.array_equal(graph.exit_child[nodes[:-1], -1], nodes[1:])
            kept, different = graph.exit_child[nodes[-1], -1], nodes[graph.exit_token[nodes, -1] != graph.llm_token[nodes]]
            corrected = graph.llm_child[different[0]] if len(different) else graph.llm_child[kept]
            assert after is None or after in (kept, corrected)
            assert len(nodes) == 3 or after is None
    assert 3 in lengths


def test_where_nothing_was_recorded_a_walk_ends(tiny_models: Models) -> None:
    graphs = record_tiny(tiny_models, RANDOM_NEW_TOKENS, node_budget=5)
    assert not any(graph.closed for graph in graphs)
    lens = fit_importance(Lens.from_tensors(graphs.lens_tensors), graphs)
    assert np.isfinite(lens.rejection).all()
    assert (np.diff(lens.importance) >= 0).all()


@pytest.mark.parametrize("agree", [True, False])
def test_an_llm_that_always_or_never_agrees_leaves_finite_weights(akin_graphs: GraphSet, agree: bool) -> None:
    def plant(arrays: dict[str, NDArray[Any]]) -> None:
        arrays["llm_child"][:] = -1
        arrays["llm_token"][:] = arrays["exit_token"][:, 0] if agree else 60_000
        arrays["exit_child"][:, 1:], arrays["exit_token"][:, 1:] = arrays["exit_child"][:, :1], arrays["exit_token"][:, :1]

    planted = changed(akin_graphs, plant)
    lens = fit_importance(Lens.from_tensors(akin_graphs.lens_tensors), planted)
    held = np.concatenate([lens.rejected(-1, _clues(g, n, -1)) for g, n in met(planted, 4)])
    assert np.isfinite(lens.rejection).all()
    assert (held < 0.2).all() if agree else (held > 0.8).all()
