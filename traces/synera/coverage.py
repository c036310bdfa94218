"""How much of what a controller can do a set of graphs covers.

What does not live here: the graphs (graph.py) and the recorder (record.py).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from traces.synera.graph import GraphSet
from traces.synera.laid import Laid


def coverage(graphs: GraphSet, walks: int = 50, seed: int = 0) -> dict[str, float]:
    """Return the share of answers that stay inside the graphs from their first to their last token, by controller.

    `random` picks at each token one of the exits or the LLM, uniformly, `walks` answers a graph; `never` follows the last
    exit, `always` the LLM. `random_steps` is the share of the tokens of `random` that lead to a recorded node: an answer
    is lost with its first token that does not, so it says little of the answers.
    """
    laid, rng, exits = Laid(graphs), np.random.default_rng(seed), len(graphs.meta.exit_layers)
    picks: dict[str, Callable[[int], NDArray[np.integer]]] = {
        "random": lambda count: rng.integers(exits + 1, size=count),
        "never": lambda count: np.full(count, exits - 1),
        "always": lambda count: np.full(count, exits),
    }
    result = {}
    for name, pick in picks.items():
        starts = np.repeat(laid.roots, walks if name == "random" else 1)
        steps, lost = _walked(laid, starts, pick)
        result[name] = 1 - lost / len(starts)
        if name == "random":
            result["random_steps"] = steps / (steps + lost)
    return result


def _walked(laid: Laid, nodes: NDArray[np.int64], pick: Callable[[int], NDArray[np.integer]]) -> tuple[int, int]:
    """Walk from some nodes on, all together; return the tokens that stayed inside, and the walks that did not."""
    steps = lost = 0
    while len(nodes := nodes[~laid.ended[nodes]]):
        after = laid.child[nodes, pick(len(nodes))]
        nodes = after[after >= 0]
        steps, lost = steps + len(nodes), lost + len(after) - len(nodes)
    return steps, lost
