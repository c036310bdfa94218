"""The token graph of one prompt as a picture of a tree: depth to the right, who says what by the line, confidence by its colour.

What does not live here: the tree (traces/synera/inspection.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scripts._text import harmless
from traces.files import replacing
from traces.synera.graph import Graph, GraphSet
from traces.synera.inspection import Run, likeliest_runs

_WORDS = 26
"""Characters that are written on a run of tokens."""
_STYLES: dict[tuple[bool, bool], Literal["-", "--", ":"]] = {(True, True): "-", (True, False): "--", (False, True): ":"}
"""By whether the SLM and whether the LLM say a run's first token."""


def draw(graphs: GraphSet, index: int, lines: int, path: Path) -> None:
    """Draw the likeliest runs of tokens of a prompt's graph, at most so many, and write the picture, whole or not at all."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.cm import ScalarMappable
    from matplotlib.lines import Line2D

    graph, root = graphs[index], likeliest_runs(graphs, index, lines)
    leaves = sum(not run.ways for run, _, _ in _walk(root))
    figure, axes = plt.subplots(figsize=(14, min(40.0, 1.8 + 0.24 * leaves)), dpi=110)
    colours = plt.get_cmap("RdYlGn")
    _draw_runs(axes, graphs, graph, root, colours)
    axes.set_yticks([])
    axes.set_xlabel("tokens of the answer")
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    names = {(True, True): "SLM and LLM say it", (True, False): "the SLM alone", (False, True): "the LLM alone"}
    handles = [Line2D([], [], color="#555555", linestyle=_STYLES[who], label=name) for who, name in names.items()]
    marks = [Line2D([], [], color="#333333", marker=mark, linestyle="", label=name) for mark, name in _MARKS.values()]
    axes.legend(handles=[*handles, *marks], loc="upper left", fontsize=8, frameon=False)
    figure.colorbar(ScalarMappable(cmap=colours), ax=axes, label="confidence of the SLM's last exit", fraction=0.02, pad=0.01)
    axes.set_title(harmless(f"{graph.kind}: {graph.prompt}"[:140]), fontsize=9, loc="left", parse_math=False)
    figure.tight_layout()
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix[1:].lower(), bbox_inches="tight")
    plt.close(figure)


_MARKS = {"end": ("o", "the answer ends, with its score"), "more": ("|", "more nodes, not drawn"), "out": ("x", "not recorded")}


def _walk(run: Run) -> Iterator[tuple[Run, Run | None, int]]:
    """Every run, its parent, and its depth in tokens before it, from the first branch to the last."""
    waiting: list[tuple[Run, Run | None, int]] = [(run, None, 0)]
    while waiting:
        each, parent, depth = waiting.pop()
        yield each, parent, depth
        waiting += [(way, each, depth + len(each.tokens)) for way in reversed(each.ways or ())]


def _draw_runs(axes: Any, graphs: GraphSet, graph: Graph, root: Run, colours: Any) -> None:
    heights = _heights(root)
    for run, parent, depth in _walk(root):
        height, end = heights[id(run)], depth + len(run.tokens)
        style = _STYLES[run.by_slm, run.by_llm]
        if parent is not None:
            axes.plot([depth, depth], [heights[id(parent)], height], color="#bbbbbb", linewidth=0.8, zorder=1)
        for place, confidence in enumerate(_confidences(graph, run)):
            line = style if place == 0 else "-"  # after the first all say the same
            axes.plot([depth + place, depth + place + 1], [height] * 2, color=colours(confidence), linestyle=line, linewidth=3)
        text = " ".join(graphs.text(run.tokens).split())
        text = text if len(text) <= _WORDS else f"{text[: _WORDS - 1]}…"
        axes.text(depth + 0.1, height + 0.12, harmless(text), fontsize=7, va="bottom", parse_math=False, zorder=3)
        if not run.ways:
            _mark_end(axes, graph, run, end, height)


def _mark_end(axes: Any, graph: Graph, run: Run, end: int, height: float) -> None:
    ended = run.node >= 0 and not np.isnan(graph.score[run.node])
    mark = _MARKS["end" if ended else "more" if run.node >= 0 else "out"][0]
    axes.plot([end], [height], color="#333333", marker=mark, markersize=5, zorder=4)
    if ended:
        axes.text(end + 0.3, height, f"{graph.score[run.node]:.2f}", fontsize=7, va="center")


def _heights(root: Run) -> dict[int, float]:
    """Of each run: leaves lie one below the other, and a run half-way between its first and last way on."""
    heights: dict[int, float] = {}
    order = [run for run, _, _ in _walk(root)]
    for place, leaf in enumerate(run for run in order if not run.ways):
        heights[id(leaf)] = -float(place)
    for run in reversed(order):
        if run.ways:
            heights[id(run)] = (heights[id(run.ways[0])] + heights[id(run.ways[-1])]) / 2
    return heights


def _confidences(graph: Graph, run: Run) -> list[float]:
    """The confidence with which each token of a run was said, at the SLM's last exit."""
    if not run.tokens:
        return []
    nodes = [run.begins]
    for token in run.tokens[:-1]:
        nodes.append(graph.child(nodes[-1], token))
    return [float(graph.confidence[node, -1]) for node in nodes]
