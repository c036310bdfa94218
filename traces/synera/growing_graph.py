"""The graph of one prompt while nodes are added to it: arrays that grow, readable as those of a recorded graph.

What does not live here: which nodes are run and by what (record.py, growing.py), and the format of files (graph.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from traces.synera.graph import Graph
from traces.synera.graph_check import NODE_ARRAYS, node_shape


class GrowingGraph:
    """Nodes that are known, and what was found at those that were run.

    Reads as a :class:`traces.synera.graph.Graph` at every node that was run: the arrays of :data:`NODE_ARRAYS` are its
    attributes, each with room for nodes to come. A node that was not run is a leaf of which only `token`, `parent` and
    `depth` are known; a node with a score is an end, and needs no run.
    """

    token: NDArray[np.int32]
    parent: NDArray[np.int32]
    depth: NDArray[np.int32]
    score: NDArray[np.float32]
    exit_token: NDArray[np.int32]
    confidence: NDArray[np.float32]
    margin: NDArray[np.float32]
    entropy: NDArray[np.float32]
    runner_up: NDArray[np.int32]
    sketch: NDArray[np.float16]
    llm_probability: NDArray[np.float32]
    llm_token: NDArray[np.int32]
    exit_child: NDArray[np.int32]
    llm_child: NDArray[np.int32]
    ran: NDArray[np.bool_]
    """Whether the models were run at a node."""

    def __init__(self, prompt: str, kind: str, prompt_tokens: Sequence[int], exits: int) -> None:
        """Begin with the prompt's own node, 0, not yet run."""
        self.prompt, self.kind, self._exits = prompt, kind, exits
        self.prompt_tokens = np.asarray(prompt_tokens, np.int32)
        self._nodes = 0
        self._set(0)
        self.add(-1, -1)

    @classmethod
    def of(cls, graph: Graph) -> Self:
        """Take up a recorded graph."""
        grown = cls(graph.prompt, graph.kind, graph.prompt_tokens.tolist(), graph.exit_token.shape[1])
        grown._reserve(len(graph))
        grown._nodes = len(graph)
        for name in NODE_ARRAYS:
            getattr(grown, name)[: len(graph)] = getattr(graph, name)
        grown.ran[: len(graph)] = np.isnan(graph.score)
        return grown

    def __len__(self) -> int:
        return self._nodes

    def add(self, token: int, parent: int) -> int:
        """Add a node that is known but not run; return its index."""
        if self._nodes == len(self.token):
            self._reserve(2 * self._nodes)
        node, self._nodes = self._nodes, self._nodes + 1
        self.token[node], self.parent[node] = token, parent
        self.depth[node] = self.depth[parent] + 1 if parent >= 0 else 0
        return node

    def add_all(self, tokens: NDArray[np.integer], parents: NDArray[np.integer]) -> NDArray[np.int32]:
        """Add nodes that are known but not run, [nodes] each; return their indices."""
        nodes = np.arange(self._nodes, self._nodes + len(tokens), dtype=np.int32)
        if self._nodes + len(tokens) > len(self.token):
            self._reserve(2 * (self._nodes + len(tokens)))
        self._nodes += len(tokens)
        self.token[nodes], self.parent[nodes], self.depth[nodes] = tokens, parents, self.depth[parents] + 1
        return nodes

    def expand(self, nodes: NDArray[np.integer], figures: Mapping[str, NDArray[Any]]) -> NDArray[np.int32]:
        """Write down what was found at nodes without children, as :meth:`write`, and add a child for every token said there.

        Returns:
            [nodes, exits + 1]: where the token of each exit leads, and the LLM's; the same child where they say the same.
        """
        self.write(nodes, figures)
        said = np.concatenate([self.exit_token[nodes], self.llm_token[nodes][:, None]], 1)
        first = first_said(said[:, :-1], said[:, -1])
        new = first == np.arange(said.shape[1])
        children = np.empty(said.shape, np.int32)
        children[new] = self.add_all(said[new], np.repeat(nodes, new.sum(1)))
        children = np.take_along_axis(children, first, 1)
        self.exit_child[nodes], self.llm_child[nodes] = children[:, :-1], children[:, -1]
        return children

    def write(self, nodes: NDArray[np.integer] | int, figures: Mapping[str, NDArray[Any]]) -> None:
        """Write down what was found at nodes, [nodes, ...] by name of the array; or at one, [...]."""
        for name, values in figures.items():
            getattr(self, name)[nodes] = values
        self.ran[nodes] = True

    def step(self, node: int, token: int) -> int:
        """Return the node that one of the tokens said at a node leads to; it is added where it was not known.

        Args:
            node: that was run.
            token: of an exit or of the LLM.

        Raises:
            ValueError: nobody says it there.
        """
        if (child := self.child(node, token)) >= 0:
            return child
        exits, llm = self.exit_token[node] == token, self.llm_token[node] == token
        if not (llm or exits.any()):
            raise ValueError(f"nobody says token {token} at node {node}")
        child = self.add(token, node)
        self.exit_child[node, exits] = child
        if llm:
            self.llm_child[node] = child
        return child

    def child(self, node: int, token: int) -> int:
        """Return the node that `token` leads to, or -1 where it is not known."""
        if token == self.llm_token[node]:
            return int(self.llm_child[node])
        for exit_index in range(self._exits):
            if self.exit_token[node, exit_index] == token:
                return int(self.exit_child[node, exit_index])
        return -1

    def end(self, node: int, score: float) -> None:
        """Say that an answer ends at a node, and what it is worth."""
        self.score[node] = score

    def known(self, node: int) -> bool:
        """Whether all is known that there is to know of a node: it was run, or is an end."""
        return bool(self.ran[node] or not np.isnan(self.score[node]))

    def path(self, node: int) -> list[int]:
        """Return the nodes from the prompt's own to this one."""
        nodes = []
        while node >= 0:
            nodes.append(node)
            node = int(self.parent[node])
        return nodes[::-1]

    def answer(self, node: int) -> list[int]:
        """Return the generated tokens that lead to a node."""
        return [int(self.token[passed]) for passed in self.path(node)[1:]]

    def answers(self, nodes: NDArray[np.integer]) -> list[list[int]]:
        """Return the generated tokens that lead to each of some nodes."""
        depths = self.depth[nodes]
        tokens, at = np.empty((len(nodes), depths.max(initial=0)), np.int32), nodes
        for back in range(tokens.shape[1]):  # aligned on the right; what is above the prompt's own node is cut off
            tokens[:, -1 - back], at = self.token[at], np.maximum(self.parent[at], 0)
        return [row[len(row) - depth :].tolist() for row, depth in zip(tokens, depths, strict=True)]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of a graph; nodes of which not all is known are left out, and what led to them becomes -1."""
        ran = self.ran[: self._nodes]
        whole = ran | (~np.isnan(self.score[: self._nodes]) & ran[self.parent[: self._nodes]])
        renumber = np.full(self._nodes + 1, -1, np.int32)  # the last entry keeps -1 at -1
        renumber[:-1][whole] = np.arange(whole.sum())
        arrays: dict[str, NDArray[Any]] = {name: getattr(self, name)[: self._nodes][whole] for name in NODE_ARRAYS}
        for name in ("parent", "exit_child", "llm_child"):
            arrays[name] = renumber[arrays[name]]
        return arrays | {"prompt_tokens": self.prompt_tokens}

    def _reserve(self, nodes: int) -> None:
        if nodes > len(self.token):
            self._set(nodes)

    def _set(self, room: int) -> None:
        """Give every array room for so many nodes; what it holds stays."""
        for name, (dtype, tail) in _ARRAYS:
            fresh = np.full((max(room, 16), *node_shape(self._exits, tail)), _empty(name, dtype), dtype)
            fresh[: self._nodes] = getattr(self, name, fresh)[: self._nodes]
            setattr(self, name, fresh)


_ARRAYS: tuple[tuple[str, tuple[Any, tuple[int | str, ...]]], ...] = (*NODE_ARRAYS.items(), ("ran", (np.bool_, ())))


def _empty(name: str, dtype: type[np.generic]) -> float:
    """What an array holds where nothing is known."""
    if name == "score":
        return float("nan")
    return -1 if np.issubdtype(dtype, np.integer) else 0


def first_said(exit_token: NDArray[np.integer], llm_token: NDArray[np.integer]) -> NDArray[np.intp]:
    """Return for the exits and the LLM, in this order, the first of them that says the same token, [nodes, exits + 1].

    Args:
        exit_token: [nodes, exits].
        llm_token: [nodes].
    """
    said = np.concatenate([exit_token, llm_token[:, None]], 1)
    return (said[:, :, None] == said[:, None]).argmax(2)


def said_tokens(graphs: Iterable[Mapping[str, NDArray[Any]]]) -> set[int]:
    """Return every token that the arrays of graphs name."""
    names = ("prompt_tokens", "token", "exit_token", "llm_token", "runner_up")
    return {int(token) for arrays in graphs for name in names for token in np.unique(arrays[name]) if token >= 0}
