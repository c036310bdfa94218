"""What a person is told of graphs: figures counted by hand, and a picture from which the graph can be read back."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from tests.support.cuts import likeliest, without
from traces.synera.graph import Graph, GraphSet
from traces.synera.inspection import figures, picture


def test_figures_of_whole_graphs(akin_graphs: GraphSet) -> None:
    found, graphs = figures(akin_graphs), list(akin_graphs)
    assert (found.prompts, found.closed, found.unrecorded) == (len(graphs), len(graphs), 0)
    assert found.nodes == sum(len(g) for g in graphs)
    assert found.ends == sum(int((~np.isnan(g.score)).sum()) for g in graphs)
    assert found.ways == found.nodes - found.prompts  # every other node is where one token leads
    assert list(found.kinds) == list(dict.fromkeys(akin_graphs.meta.kinds))
    for name, kind in found.kinds.items():
        own = [g for g in graphs if g.kind == name]
        assert (kind.prompts, kind.closed, kind.slm_inside, kind.llm_inside) == (len(own), *[len(own)] * 3)
        assert kind.nodes_most == max(len(g) for g in own)
        assert kind.nodes_median == np.median([len(g) for g in own])
        assert kind.deepest == max(int(g.depth.max()) for g in own)
        assert kind.llm_score == pytest.approx(np.mean([walked(g, g.llm_child) for g in own]))
        assert kind.slm_score == pytest.approx(np.mean([walked(g, g.exit_child[:, -1]) for g in own]))


def walked(graph: Graph, child: np.ndarray) -> float:
    node = 0
    while np.isnan(graph.score[node]):
        node = int(child[node])
    return float(graph.score[node])


def test_figures_of_open_graphs(akin_graphs: GraphSet) -> None:
    """Every node that was taken out was led to by one token of a node that is still there, or by one that went with it."""
    whole, found = figures(akin_graphs), figures(likeliest(akin_graphs, 0.05))
    assert found.closed < whole.closed
    assert found.ways == found.nodes - found.prompts + found.unrecorded
    assert 0 < found.unrecorded <= whole.nodes - found.nodes
    assert any(kind.slm_inside < kind.prompts for kind in found.kinds.values())
    nothing = figures(without(akin_graphs, np.concatenate([~np.isnan(g.score) for g in akin_graphs])))
    assert nothing.ends == 0
    assert {(k.slm_score, k.slm_inside, k.llm_score, k.llm_inside) for k in nothing.kinds.values()} == {(None, 0, None, 0)}


# ---------------------------------------------------------------- the picture


def spelled(graphs: GraphSet) -> GraphSet:
    """The same with texts from which tokens can be read back."""
    return GraphSet(replace(graphs.meta, texts={str(t): f" t{t}" for t in range(10_000)}, joined=()), graphs._arrays)


def paths(lines: list[str]) -> set[tuple[tuple[int, ...], str]]:
    """Every way through a picture: its tokens, and how it ends."""
    found, stack = set(), list[list[int]]()
    for place, line in enumerate(lines):
        indent, text = re.fullmatch(r"([│├└─ ]*)\[[^]]*\] ?(.*)", line).groups()  # type: ignore[union-attr]
        text, _, end = text.partition("  ")
        depth = len(indent) // 3
        del stack[depth:]
        stack.append([int(token) for token in re.findall(r"t(\d+)", text)])
        if place + 1 == len(lines) or lines[place + 1].find("[") <= line.find("["):
            found.add((tuple(t for run in stack for t in run), end))
    return found


@pytest.mark.parametrize("share", [1.0, 0.6])
@pytest.mark.parametrize("index", [0, 3])
def test_a_whole_picture_is_the_graph(tiny_graphs: GraphSet, index: int, share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traces.synera.inspection._LONGEST_RUN", 10_000)
    graphs = spelled(likeliest(tiny_graphs, share))
    graph = graphs[index]
    wanted = set()
    for node in range(len(graph)):
        answer, at = [], node
        while at > 0:
            answer.append(int(graph.token[at]))
            at = int(graph.parent[at])
        path = tuple(answer[::-1])
        if not np.isnan(graph.score[node]):
            wanted.add((path, f"= {graph.score[node]:.3f}"))
            continue
        children = {
            *zip(graph.exit_token[node], graph.exit_child[node], strict=True),
            (graph.llm_token[node], graph.llm_child[node]),
        }
        wanted |= {((*path, int(token)), "-> not recorded") for token, child in children if child < 0}
    assert paths(picture(graphs, index, 100_000)) == wanted
    assert any(end == "-> not recorded" for _, end in wanted) == (share < 1)


@pytest.mark.parametrize("lines", [1, 2, 7, 20])
def test_a_short_picture_counts_what_it_leaves_out_and_begins_with_the_likeliest(tiny_graphs: GraphSet, lines: int) -> None:
    graphs = spelled(tiny_graphs)
    drawn = picture(graphs, 0, lines)
    assert 1 <= len(drawn) <= lines
    left_out = sum(int(n) for n in re.findall(r"\.\.\. (\d+) nodes more$", "\n".join(drawn), re.MULTILINE))
    shown = sum(len(re.findall(r"\bt\d+", line)) for line in drawn)
    assert 1 + shown + left_out == len(graphs[0])
    whole = picture(graphs, 0, 100_000)
    assert [line.partition("  ...")[0] for line in drawn if "├" not in line and "└" not in line] == whole[:1]


def test_a_long_run_is_cut_in_its_middle(akin_graphs: GraphSet) -> None:
    texts = {str(t): " " + "x" * 30 for t in range(10_000)}
    lines = picture(GraphSet(replace(akin_graphs.meta, texts=texts), akin_graphs._arrays), 0, 50)
    assert max(len(re.sub(r"^[│├└─ ]*\[[^]]*\] ", "", line)) for line in lines) < 72 + 30
    assert any(" ... x" in line for line in lines)
