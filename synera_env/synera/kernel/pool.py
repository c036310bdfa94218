"""The nodes of graphs that grow, of all prompts that are taken up, in one set of arrays: what compiled code walks.

A copy, brought up to date where compiled code stands still for want of a node. What does not live here: the graphs (traces/synera/growing.py), and
how rows wait (synera_env/synera/vector.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from numpy.typing import NDArray

from synera_env.synera.kernel.device import NOT_RUN, TAKE_UP
from synera_env.synera.kernel.nodes import READ, by_name, room
from synera_env.synera.kernel.world import Graphs
from traces.synera.growing import GrowingGraphs, LivingGraph

_ROOM = 4096
_CHILDREN = ("exit_child", "llm_child")


class _Taken:
    """A graph, and the places of its nodes in the pool."""

    def __init__(self, graph: LivingGraph) -> None:
        self.graph = graph
        self.places = np.empty(0, np.int64)


class Pool:
    """Nodes of many graphs; places of those that were given up are used again."""

    def __init__(self, graphs: GrowingGraphs) -> None:
        """Begin with none; see :meth:`provide`."""
        self._graphs, self._exits = graphs, len(graphs.meta.exit_layers)
        self._taken: dict[int, _Taken] = {}
        self._free = np.empty(0, np.int64)
        self._laid, self._room = room(0, self._exits), 0
        self._prompt, self._node = np.empty(0, np.int64), np.empty(0, np.int64)  # of each place
        self._root = np.full(len(graphs), -1)

    def provide(self, wanted: NDArray[np.int64]) -> None:
        """Take up graphs and run nodes, those of all rows that stand still in one wave of the models.

        Args:
            wanted: [rows that stand still]; see device.py.
        """
        for prompt in np.unique(TAKE_UP - wanted[wanted <= TAKE_UP]).tolist():
            self._take_up(prompt)
        places = np.unique(wanted[wanted >= 0])
        nodes = list(zip(self._prompt[places].tolist(), self._node[places].tolist(), strict=True))
        self._graphs.runs.serve([(self._taken[prompt].graph, node) for prompt, node in nodes])
        for prompt, node in nodes:
            taken = self._taken[prompt]
            children = _with_children(taken.graph, [node])
            self._copy(prompt, taken, np.array([node, *children]))

    def settle(self, begun: Iterable[int], under_way: Collection[int]) -> None:
        """Note to which prompts answers were begun, as their graphs are the last that the set gives up; and let go what it has given up
        of prompts that no answer is under way to.
        """
        for prompt in begun:
            if self._graphs.holds(prompt, self._taken[prompt].graph):
                self._graphs[prompt]
        given_up = [p for p, t in self._taken.items() if p not in under_way and not self._graphs.holds(p, t.graph)]
        for prompt in given_up:
            self._free = np.concatenate([self._free, self._taken.pop(prompt).places])
            self._root[prompt] = -1

    def laid(self, graphs: Graphs) -> Graphs:
        """Return what compiled code reads with the nodes as they are now."""
        return graphs._replace(root=self._root, nodes=self._laid[0], exits=self._laid[1])

    def _take_up(self, prompt: int) -> None:
        graph = self._graphs[prompt]
        taken = self._taken[prompt] = _Taken(graph)
        _with_children(graph, np.flatnonzero(graph.ran[: len(graph)]).tolist())
        self._copy(prompt, taken, np.arange(len(graph)))
        self._root[prompt] = taken.places[0]

    def _copy(self, prompt: int, taken: _Taken, nodes: NDArray[np.integer]) -> None:
        """Lay down what is known of nodes of a graph."""
        graph = taken.graph
        if (new := len(graph) - len(taken.places)) > 0:
            places = self._places(new)
            self._prompt[places], self._node[places] = prompt, np.arange(len(taken.places), len(graph))
            taken.places = np.concatenate([taken.places, places])
        places, arrays = taken.places[nodes], by_name(*self._laid)
        for name in READ:
            values = getattr(graph, name)[nodes]
            arrays[name][places] = np.where(values >= 0, taken.places[values], -1) if name in _CHILDREN else values
        unknown = ~(graph.ran[nodes] | ~np.isnan(graph.score[nodes]))
        arrays["llm_token"][places[unknown]] = NOT_RUN
        self._laid[1]["rejected"][places] = 0.0

    def _places(self, count: int) -> NDArray[np.int64]:
        """Give out places."""
        if count > len(self._free):
            wanted = max(_ROOM, 2 * self._room, self._room + count)
            fresh, more = room(wanted, self._exits), wanted - self._room
            for now, before in zip(fresh, self._laid, strict=True):
                now[: self._room] = before
            self._laid = fresh
            self._prompt, self._node = (np.concatenate([each, np.empty(more, np.int64)]) for each in (self._prompt, self._node))
            self._free = np.concatenate([self._free, np.arange(self._room, wanted)])
            self._room = wanted
        given, self._free = self._free[:count], self._free[count:]
        return given


def _with_children(graph: LivingGraph, nodes: Iterable[int]) -> list[int]:
    """See that every token that is said at nodes which were run leads somewhere; return where."""
    children: list[int] = []
    for node in nodes:
        if graph.ran[node]:
            said = {*graph.exit_token[node].tolist(), int(graph.llm_token[node])}
            children += [graph.reach(node, token) for token in said]
    return children
