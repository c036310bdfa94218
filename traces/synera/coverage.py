"""How much of what a controller can do a set of graphs covers.

What does not live here: the graphs (graph.py) and the recorder (record.py).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from traces.synera.graph import GraphSet


def coverage(graphs: GraphSet, walks: int = 50, seed: int = 0) -> dict[str, float]:
    """Return the share of steps that stay inside the graphs, by controller.

    `random` picks at each token one of the exits or the LLM, uniformly; `never` follows the last exit, `always` the LLM.
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
        steps = inside = 0
        for graph in graphs:
            for _ in range(walks if name == "random" else 1):
                node = 0
                while np.isnan(graph.score[node]):
                    pick = source()
                    steps += 1
                    node = int(graph.llm_child[node] if pick == exits else graph.exit_child[node, pick])
                    if node < 0:
                        break
                    inside += 1
        result[name] = inside / max(steps, 1)
    return result
