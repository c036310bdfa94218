"""The picture of a prompt's graph: what is where in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts import _tree_view
from tests.support.cuts import likeliest
from tests.support.recorded import Recorded, recorded
from traces.synera.inspection import likeliest_runs


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


def test_it_is_a_picture_and_nothing_else_is_left(pair: Recorded, tmp_path: Path) -> None:
    for name, begins in (("tree.png", b"\x89PNG"), ("tree.svg", b"<?xml"), ("tree.pdf", b"%PDF")):
        _tree_view.draw(pair.graphs, 1, 12, tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(begins)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["tree.pdf", "tree.png", "tree.svg"]
    cut = likeliest(pair.graphs, 0.3)
    for lines in (1, 400):
        _tree_view.draw(cut, 0, lines, tmp_path / "cut.png")


def test_runs_lie_without_touching_and_each_between_its_ways_on(pair: Recorded) -> None:
    root = likeliest_runs(pair.graphs, 0, 30)
    runs = [run for run, _, _ in _tree_view._walk(root)]
    heights = _tree_view._heights(root)
    assert len(heights) == len(runs) > 5
    leaves = [heights[id(run)] for run in runs if not run.ways]
    assert leaves == [-float(place) for place in range(len(leaves))]
    for run, parent, depth in _tree_view._walk(root):
        if run.ways:
            assert min(heights[id(way)] for way in run.ways) <= heights[id(run)] <= max(heights[id(way)] for way in run.ways)
        if parent is not None and run.node >= 0:
            assert pair.graphs[0].depth[run.node] == depth + len(run.tokens)


def test_a_token_has_the_confidence_of_the_node_where_it_is_said(pair: Recorded) -> None:
    graph = pair.graphs[0]
    runs = [run for run, _, _ in _tree_view._walk(likeliest_runs(pair.graphs, 0, 30)) if run.tokens]
    for run in runs:
        path, node = [], run.node if run.node >= 0 else None
        while node is not None and len(path) < len(run.tokens):
            node = int(graph.parent[node])
            path.append(float(graph.confidence[node, -1]))
        if path:
            np.testing.assert_array_equal(_tree_view._confidences(graph, run), path[::-1])
        said = (graph.exit_token[run.begins] == run.tokens[0]).any(), graph.llm_token[run.begins] == run.tokens[0]
        assert (run.by_slm, run.by_llm) == said
    assert {(run.by_slm, run.by_llm) for run in runs} >= {(True, False), (True, True)}
