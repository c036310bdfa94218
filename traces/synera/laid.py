"""Graphs laid end to end, so that many walks through many graphs go on together, a step of all of them at a time.

What does not live here: which way a walk takes (coverage.py, record_lens.py).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from traces.synera.graph import Graph


class Laid:
    """The ways through some graphs; nodes are numbered through all of them."""

    def __init__(self, graphs: Iterable[Graph]) -> None:
        self._graphs = list(graphs)
        ends = np.cumsum([len(graph) for graph in self._graphs])
        self.roots = np.concatenate([[0], ends[:-1]])
        """The prompts' own nodes, [graphs]."""
        children = self.of("exit_child"), self.of("llm_child")[:, None]
        child = np.concatenate(children, 1).astype(np.int64)
        self.child = np.where(child >= 0, child + np.repeat(self.roots, np.diff(ends, prepend=0))[:, None], -1)
        """Where the token of each exit leads, and the LLM's, [nodes, exits + 1]; -1 where that was not recorded."""
        self.ended = ~np.isnan(self.of("score"))
        """Whether an answer ends there, [nodes]."""

    def of(self, name: str) -> np.ndarray:
        """Return an array of the graphs, by its name, for the nodes of all."""
        return np.concatenate([getattr(graph, name) for graph in self._graphs])
