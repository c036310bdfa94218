"""What a set of graphs holds, for a person: figures by kind of prompt, and the graph of one prompt as text.

What does not live here: what controllers keep inside (agents/coverage.py), and files (graph_file.py).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from traces.synera.graph import Graph, GraphSet
from traces.synera.growing_graph import first_said

_LONGEST_RUN = 72
"""Characters of a line's text."""


@dataclass(frozen=True)
class KindFigures:
    """The prompts of one kind."""

    prompts: int
    closed: int
    """Of them, those with nothing left to record."""
    nodes_median: float
    nodes_most: int
    deepest: int
    """Tokens of the longest answer."""
    slm_score: float | None
    """Mean score of the SLM's own answers, at its last exit, of those that end inside; None where none does."""
    slm_inside: int
    """Prompts whose own answer by the SLM ends inside."""
    llm_score: float | None
    """The same of the LLM's own answers."""
    llm_inside: int


@dataclass(frozen=True)
class GraphFigures:
    """A set of graphs."""

    prompts: int
    closed: int
    nodes: int
    ends: int
    """Nodes at which an answer ends, and has a score."""
    ways: int
    """Tokens that an exit or the LLM says at nodes where answers go on; each token of a node once."""
    unrecorded: int
    """Of them, those that lead to no node."""
    disagree: float
    """Share of the nodes where answers go on at which the SLM's last exit and the LLM say different tokens."""
    kinds: dict[str, KindFigures]


def figures(graphs: GraphSet) -> GraphFigures:
    """Count what a set of graphs holds."""
    ways = [_ways(graph) for graph in graphs]
    inner = [np.isnan(graph.score) for graph in graphs]
    differ = np.concatenate([(g.exit_token[:, -1] != g.llm_token)[i] for g, i in zip(graphs, inner, strict=True)])
    return GraphFigures(
        prompts=len(graphs),
        closed=sum(graph.closed for graph in graphs),
        nodes=graphs.nodes,
        ends=sum(int((~each).sum()) for each in inner),
        ways=sum(said for said, _ in ways),
        unrecorded=sum(missing for _, missing in ways),
        disagree=float(differ.mean()),
        kinds={kind: _kind([graph for graph in graphs if graph.kind == kind]) for kind in dict.fromkeys(graphs.meta.kinds)},
    )


def _ways(graph: Graph) -> tuple[int, int]:
    """Tokens that are said at nodes where answers go on, and how many of them lead nowhere."""
    inner = np.isnan(graph.score)
    children = np.column_stack([graph.exit_child, graph.llm_child])[inner]
    first = first_said(graph.exit_token[inner], graph.llm_token[inner]) == np.arange(children.shape[1])
    return int(first.sum()), int((first & (children < 0)).sum())


def _kind(graphs: list[Graph]) -> KindFigures:
    sizes = [len(graph) for graph in graphs]
    slm = [score for graph in graphs if (score := _own_score(graph, graph.exit_child[:, -1])) is not None]
    llm = [score for graph in graphs if (score := _own_score(graph, graph.llm_child)) is not None]
    return KindFigures(
        prompts=len(graphs),
        closed=sum(graph.closed for graph in graphs),
        nodes_median=float(np.median(sizes)),
        nodes_most=max(sizes),
        deepest=max(int(graph.depth.max()) for graph in graphs),
        slm_score=float(np.mean(slm)) if slm else None,
        slm_inside=len(slm),
        llm_score=float(np.mean(llm)) if llm else None,
        llm_inside=len(llm),
    )


def _own_score(graph: Graph, child: NDArray[np.int32]) -> float | None:
    """Score of the answer that one source gives by itself; None where it leaves the graph."""
    node = 0
    while node >= 0 and np.isnan(graph.score[node]):
        node = int(child[node])
    return None if node < 0 else float(graph.score[node])


@dataclass
class Run:
    """Tokens one after the other that all sources agree on, after the first; and the ways on from the last of them."""

    said_by: str
    """Which layers' exits say the first token, with the probability of the deepest of them, and whether the LLM does."""
    tokens: list[int]
    node: int
    """Of the last token; -1 where it is not recorded."""
    begins: int
    """The node at which the first token is said."""
    by_slm: bool
    """An exit says the first token."""
    by_llm: bool
    """The LLM says it."""
    likelihood: float
    """Where each token is an exit's or the LLM's by a fair draw."""
    ways: list[Run] | None = None
    """None where it is not looked at; at most one where it ends."""


def picture(graphs: GraphSet, index: int, lines: int) -> list[str]:
    """Draw the graph of a prompt as a tree, a line a run of tokens, the likeliest ones first to be drawn.

    Args:
        graphs: any.
        index: of the prompt.
        lines: most of them, at least 1; what is left out is counted.
    """
    return list(_lines(graphs, graphs[index], likeliest_runs(graphs, index, lines), "", ""))


def likeliest_runs(graphs: GraphSet, index: int, lines: int) -> Run:
    """Return the graph of a prompt as a tree of runs, of which at most so many, the likeliest, are opened; its root."""
    graph = graphs[index]
    root = _extend(graph, Run("prompt", [], 0, 0, True, True, 1.0))
    waiting, drawn = [(-root.likelihood, 0, root)], 1
    while waiting and drawn < lines:
        _, _, run = heapq.heappop(waiting)
        branches = _branches(graph, run.node, graphs.meta.exit_layers)
        if drawn + len(branches) > lines:
            continue
        run.ways = [_extend(graph, branch) for branch in branches]
        for each in run.ways:
            each.likelihood *= run.likelihood
            drawn += 1
            if each.node >= 0 and np.isnan(graph.score[each.node]):
                heapq.heappush(waiting, (-each.likelihood, drawn, each))
    return root


def _branches(graph: Graph, node: int, layers: Sequence[int]) -> list[Run]:
    """The ways on from a node, each token once."""
    said: dict[int, list[int]] = {}
    for source, token in enumerate([*graph.exit_token[node], graph.llm_token[node]]):
        said.setdefault(int(token), []).append(source)
    return [
        Run(
            _names(graph, node, sources, layers),
            [token],
            graph.child(node, token),
            begins=node,
            by_slm=sources[0] < len(layers),
            by_llm=len(layers) in sources,
            likelihood=len(sources) / (len(layers) + 1),
        )
        for token, sources in said.items()
    ]


def _names(graph: Graph, node: int, sources: Sequence[int], layers: Sequence[int]) -> str:
    exits = [source for source in sources if source < len(layers)]
    names = [f"layer {'+'.join(str(layers[e]) for e in exits)} {graph.confidence[node, exits[-1]]:.2f}"] if exits else []
    return ", ".join([*names, *(["LLM"] if len(layers) in sources else [])])


def _extend(graph: Graph, run: Run) -> Run:
    """Go on as long as all say the same."""
    while run.node >= 0 and np.isnan(graph.score[run.node]):
        token = int(graph.llm_token[run.node])
        if (graph.exit_token[run.node] != token).any():
            break
        run.tokens.append(token)
        run.node = graph.child(run.node, token)
    return run


def _lines(graphs: GraphSet, graph: Graph, run: Run, first: str, rest: str) -> Iterator[str]:
    text = " ".join(graphs.text(run.tokens).split())
    if len(text) > _LONGEST_RUN:
        text = f"{text[: _LONGEST_RUN // 2]} ... {text[-_LONGEST_RUN // 2 :]}"
    yield f"{first}[{run.said_by}] {text}{_end(graph, run)}"
    for number, way in enumerate(run.ways or (), 1):
        last = number == len(run.ways or ())
        yield from _lines(graphs, graph, way, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))


def _end(graph: Graph, run: Run) -> str:
    if run.node < 0:
        return "  -> not recorded"
    if not np.isnan(graph.score[run.node]):
        return f"  = {graph.score[run.node]:.3f}"
    return "" if run.ways else f"  ... {_below(graph, run.node)} nodes more"


def _below(graph: Graph, node: int) -> int:
    """Nodes behind one."""
    behind = np.zeros(len(graph), bool)
    behind[node] = True
    for later in range(node + 1, len(graph)):  # a parent comes before its children
        behind[later] = behind[graph.parent[later]]
    return int(behind.sum()) - 1
