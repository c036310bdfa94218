"""The graph of one prompt while it is recorded: rows that are added and filled in, and at last the arrays of a graph.

What does not live here: the order in which nodes are run (record.py) and the files (graph.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.synera.lens import Lens
from traces.synera.graph_check import EXITS, NODE_ARRAYS
from traces.tasks.splits import Prompt


@dataclass
class GraphBuilder:
    """The growing graph of one prompt."""

    prompt: Prompt
    tokens: list[int]
    """The prompt's."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """What is known of each node, by name of its array; `dropped` where it was never run."""
    hidden: list[NDArray[np.float32]] = field(default_factory=list)
    """[exits, hidden] of each row that was run."""
    expanded: int = 0
    """Nodes that were run."""
    dropped: int = 0
    """Nodes that were left out, over budget."""

    def add(self, token: int, parent: int, depth: int) -> int:
        """Add a node that is known but not yet run; return its index."""
        self.rows.append({"token": token, "parent": parent, "depth": depth, "score": np.nan})
        self.hidden.append(np.zeros(0, np.float32))
        return len(self.rows) - 1

    def write(self, index: int, figures: dict[str, NDArray[Any]], row: int) -> dict[str, Any]:
        """Write down what the models said at a node, one row of `PairTree.run`; return the node's record."""
        record = self.rows[index]
        record.update({name: values[row] for name, values in figures.items() if name != "hidden"})
        self.hidden[index] = figures["hidden"][row].copy()
        return record

    def drop(self, index: int) -> None:
        """Over budget: leave a node out. Its row is removed when the graph is finished."""
        self.dropped += 1
        self.rows[index]["dropped"] = True

    def answer(self, index: int) -> list[int]:
        """Return the generated tokens that lead to a node."""
        tokens: list[int] = []
        while index > 0:
            tokens.append(self.rows[index]["token"])
            index = self.rows[index]["parent"]
        return tokens[::-1]

    def arrays(self, lens: Lens, exits: int) -> dict[str, NDArray[Any]]:
        """Turn rows into the arrays of a graph; dropped rows go, and what pointed at them becomes -1."""
        kept = [i for i, r in enumerate(self.rows) if not r.get("dropped")]
        renumber = np.full(len(self.rows) + 1, -1, np.int32)  # the last entry keeps -1 at -1
        renumber[kept] = np.arange(len(kept))
        arrays: dict[str, NDArray[Any]] = {"prompt_tokens": np.array(self.tokens, np.int32)}
        for name, (dtype, tail) in NODE_ARRAYS.items():
            shape = (len(kept), *(exits if s == EXITS else int(s) for s in tail))
            empty = -1 if np.issubdtype(dtype, np.integer) else 0
            arrays[name] = np.full(shape, empty, dtype)
        for new, old in enumerate(kept):
            row = self.rows[old]
            for name in NODE_ARRAYS.keys() & row.keys():
                arrays[name][new] = row[name]
            if self.hidden[old].size:
                arrays["sketch"][new] = [lens.sketch(self.hidden[old][e], e) for e in range(exits)]
        for name in ("parent", "exit_child", "llm_child"):
            arrays[name] = renumber[arrays[name]]
        return arrays


def said_tokens(arrays: dict[str, NDArray[Any]]) -> set[int]:
    """Return every token that a finished graph names."""
    named = [arrays[name].ravel() for name in ("prompt_tokens", "token", "exit_token", "llm_token", "runner_up")]
    return {int(token) for token in np.unique(np.concatenate(named)) if token >= 0}


def fit_directions(builders: list[GraphBuilder], exits: int) -> Lens:
    """Fit what sketches are made with on the nodes of a batch of graphs, each node once."""
    states = np.stack([h for b in builders for h in b.hidden if h.size])  # [nodes, exits, hidden]
    return Lens.of_states([states[:, e] for e in range(exits)])
