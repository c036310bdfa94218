"""Which slot of a bounded pool holds the keys and values of which prefix; whole prompts give theirs up, least recently used first.

What does not live here: the keys and values (runtime/model/tree_kv.py), and the forward that fills them (growing_runs.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from traces.synera.growing_graph import GrowingGraph

_PATHS = 8192
"""Prefixes whose slots are at hand; those of others are worked out from node to node."""


@dataclass(frozen=True)
class Placed:
    """A node that has a slot, and what must be run for it."""

    path: NDArray[np.int64]
    """Slots from the prompt's first token to the node's own."""
    missing: NDArray[np.intp]
    """Places in `path` whose slots hold nothing yet; the last is the node's own."""
    tokens: NDArray[np.int32]
    """Of those places."""


class Prefixes:
    """The slots of one graph."""

    def __init__(self) -> None:
        self.prompt: NDArray[np.int64] | None = None
        """Of the prompt's tokens but the last, which node 0 stands for; None before the first is given out."""
        self.nodes = np.empty(0, np.int64)
        """Of each node, -1 for none; one that has a slot has it for all before it."""
        self.paths: dict[int, NDArray[np.int64]] = {}
        """From the prompt's first token to a node."""

    def release(self) -> NDArray[np.int64]:
        """Forget all slots, and return them."""
        held = self.nodes if self.prompt is None else np.concatenate([self.prompt, self.nodes])
        self.prompt, self.nodes, self.paths = None, np.empty(0, np.int64), {}
        return held[held >= 0]


class SlotPool:
    """Gives slots to the nodes of a wave."""

    def __init__(self, slots: int) -> None:
        """Begin with so many slots, all free."""
        self.slots = slots
        self._unused = 0  # no slot from here on was ever given out
        self._free = np.empty(0, np.int64)
        self._users: dict[Prefixes, None] = {}  # least recently used first
        self._pinned: set[Prefixes] = set()
        self._paths = 0

    def begin(self) -> None:
        """A wave begins: what it is given stays until the next one begins."""
        self._pinned.clear()

    def clear(self) -> None:
        """Take every slot back."""
        for prefixes in self._users:
            prefixes.release()
        self._users.clear()
        self._pinned.clear()
        self._free, self._unused, self._paths = np.empty(0, np.int64), 0, 0

    def place(self, graph: GrowingGraph, prefixes: Prefixes, node: int) -> Placed | None:
        """Give slots to a node that was not run and to those before it that have none; None where there is no room.

        Args:
            graph: the node's.
            prefixes: of that graph.
            node: none of this wave.
        """
        self._users.pop(prefixes, None)
        self._users[prefixes] = None
        before = prefixes.paths.get(int(graph.parent[node]))
        if before is not None:
            nodes, tokens = [node], graph.token[node : node + 1]
            path = np.empty(len(before) + 1, np.int64)
            path[:-1], path[-1] = before, -1
            missing = np.array([len(before)])
        else:
            nodes = graph.path(node)
            path = _slots(graph, prefixes, nodes)
            missing = np.flatnonzero(path < 0)
            tokens = np.concatenate([graph.prompt_tokens, graph.token[nodes[1:]]])[missing]
        self._pinned.add(prefixes)
        if not self._make_room(len(missing)):
            return None
        path[missing] = self._take(len(missing))
        self._hold(prefixes, nodes, path, len(graph))
        return Placed(path, missing, tokens)

    def _hold(self, prefixes: Prefixes, nodes: list[int], path: NDArray[np.int64], known: int) -> None:
        if nodes[-1] >= len(prefixes.nodes):
            grown = np.full(2 * known, -1, np.int64)
            grown[: len(prefixes.nodes)] = prefixes.nodes
            prefixes.nodes = grown
        prefixes.nodes[nodes] = path[len(path) - len(nodes) :]
        if prefixes.prompt is None:
            prefixes.prompt = path[: len(path) - len(nodes)]
        if self._paths == _PATHS:
            for each in self._users:
                each.paths.clear()
            self._paths = 0
        prefixes.paths[nodes[-1]] = path
        self._paths += 1

    def _make_room(self, slots: int) -> bool:
        """Take slots back from prompts that are not of this wave until so many are free; False where that is not enough."""
        for prefixes in list(self._users):
            if len(self._free) + self.slots - self._unused >= slots:
                break
            if prefixes not in self._pinned:
                del self._users[prefixes]
                self._paths -= len(prefixes.paths)
                self._free = np.concatenate([self._free, prefixes.release()])
        return len(self._free) + self.slots - self._unused >= slots

    def _take(self, slots: int) -> NDArray[np.int64]:
        again = min(slots, len(self._free))
        taken = self._free[len(self._free) - again :]
        self._free = self._free[: len(self._free) - again]
        fresh = np.arange(self._unused, self._unused + slots - again)
        self._unused += len(fresh)
        return np.concatenate([taken, fresh])


def _slots(graph: GrowingGraph, prefixes: Prefixes, nodes: list[int]) -> NDArray[np.int64]:
    """The slots from the prompt's first token along a path of nodes, -1 where there is none."""
    before = np.full(len(graph.prompt_tokens) - 1, -1, np.int64) if prefixes.prompt is None else prefixes.prompt
    own = np.full(len(nodes), -1, np.int64)
    held = np.array(nodes) < len(prefixes.nodes)
    own[held] = prefixes.nodes[np.array(nodes)[held]]
    return np.concatenate([before, own])
