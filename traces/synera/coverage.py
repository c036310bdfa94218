"""How much of what a controller can do a set of graphs covers.

What does not live here: the graphs (graph.py) and the recorder (record.py).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from traces.synera.graph import Graph, GraphSet


def coverage(graphs: GraphSet, walks: int = 50, seed: int = 0) -> dict[str, float]:
    """Return the share of answers that stay inside the graphs from their first to their last token, by controller.

    `random` picks at each token one of the exits or the LLM, uniformly, `walks` answers a graph; `never` follows the last
    exit, `always` the LLM. `random_steps` is the share of the tokens of `random` that lead to a recorded node: an answer
    is lost with its first token that does not, so it says little of the answers.
    """
    rng = np.random.default_rng(seed)
    exits = len(graphs.meta.exit_layers)
    sources: dict[str, Callable[[], int]] = {
        "random": lambda: int(rng.integers(exits + 1)),
        "never": lambda: exits - 1,
        "always": lambda: exits,
    }
    result = {}
    for name, source in sources.items():
        walked = [_walk(graph, source) for graph in graphs for _ in range(walks if name == "random" else 1)]
        result[name] = sum(ended for _, ended in walked) / len(walked)
        if name == "random":
            inside, lost = sum(steps for steps, _ in walked), sum(not ended for _, ended in walked)
            result["random_steps"] = inside / (inside + lost)
    return result


def _walk(graph: Graph, source: Callable[[], int]) -> tuple[int, bool]:
    """Follow one source after the other; return the tokens that stayed inside, and whether the answer came to its end."""
    node, steps, llm = 0, 0, graph.exit_child.shape[1]
    while np.isnan(graph.score[node]):
        pick = source()
        node = int(graph.llm_child[node] if pick == llm else graph.exit_child[node, pick])
        if node < 0:
            return steps, False
        steps += 1
    return steps, True
