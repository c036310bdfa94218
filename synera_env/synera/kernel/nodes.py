"""The nodes of graphs as compiled code reads them: what is known of an exit in one line of the cache, and how it is laid so.

In a file, and in a graph that grows, each figure has an array of its own, and a token drafted would wait for memory nine times. What does
not live here: the walk (device.py), and what lays the nodes of graphs that grow (pool.py).
"""

# mypy: ignore-errors

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.synera.lens import SKETCH_SIZE
from synera_env.synera.kernel.formulas import inlined

EXIT = np.dtype(
    [
        *(("token", np.int32), ("child", np.int32)),  # -1 where that was not recorded
        *((name, np.float32) for name in ("confidence", "margin", "entropy")),
        ("runner_up", np.int32),
        ("rejected", np.float64),  # how likely the LLM rejects the token, once that was asked; 0 before
        ("sketch", np.uint16, (SKETCH_SIZE,)),  # half precision by its bits, as compiled code knows no halves
    ]
)
NODE = np.dtype([("llm_token", np.int32), ("llm_child", np.int32), ("score", np.float32)])
_PLACES = {"exit_token": "token", "exit_child": "child"} | {
    name: name for name in ("confidence", "margin", "entropy", "runner_up", "sketch")
}
"""By the name of a graph's array, where it is in EXIT."""
READ = (*(NODE.names or ()), *_PLACES)
"""Arrays of graphs that compiled code reads."""


def room(nodes: int, exits: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return room for nodes, [nodes] of NODE, and for their exits, [nodes, exits] of EXIT, each in a line of the cache of its own; pages
    of it take memory once they are written.
    """
    line = EXIT.itemsize
    raw = np.zeros((nodes * exits + 1) * line, np.uint8)
    first = -raw.ctypes.data % line
    return np.zeros(nodes, NODE), raw[first : first + nodes * exits * line].view(EXIT).reshape(nodes, exits)


def by_name(nodes: NDArray[Any], exits: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return views of room, by the names of a graph's arrays."""
    of_exits = {name: exits[place] for name, place in _PLACES.items()}
    return {name: nodes[name] for name in NODE.names or ()} | of_exits | {"sketch": of_exits["sketch"].view(np.float16)}


@inlined
def lay(graphs, prompt):
    """Lay the nodes of a prompt's graph, where :func:`arrange` says."""
    recorded, place = graphs.recorded, graphs.order[1]
    first = recorded.node_offsets[prompt]
    nodes = recorded.node_offsets[prompt + 1] - first
    arrange(graphs, first, nodes)
    for node in range(nodes):
        if node and not place[node]:
            continue  # nothing leads there
        at, to = first + node, graphs.nodes[first + place[node]]
        to.llm_token, to.score = recorded.llm_token[at], recorded.score[at]
        to.llm_child = placed(recorded.llm_child[at], first, place)
        for exit_index in range(graphs.exits.shape[1]):
            into = graphs.exits[first + place[node], exit_index]
            into.token = recorded.exit_token[at, exit_index]
            into.child = placed(said_child(recorded, at, exit_index), first, place)
            into.confidence, into.margin = recorded.confidence[at, exit_index], recorded.margin[at, exit_index]
            into.entropy, into.runner_up = recorded.entropy[at, exit_index], recorded.runner_up[at, exit_index]
            for direction in range(len(into.sketch)):
                into.sketch[direction] = recorded.sketch[at, exit_index, direction]
    graphs.root[prompt] = first
    graphs.laid[0] += 1


@inlined
def arrange(graphs, first, nodes):
    """Choose where the nodes of a graph are laid, parents before children: what the last exit leads to comes next, then what the ones
    before it do, so that a draft mostly walks on to what the memory has fetched already.
    """
    recorded, size, place = graphs.recorded, graphs.order[0], graphs.order[1]
    for node in range(nodes):
        size[node], place[node] = 1, 0
    for node in range(nodes - 1, 0, -1):
        size[recorded.parent[first + node]] += size[node]
    for node in range(nodes):
        if node and not place[node]:
            continue
        after, exits = place[node] + 1, recorded.exit_child.shape[1]
        for exit_index in range(exits - 1, -2, -1):
            child = recorded.exit_child[first + node, exit_index] if exit_index >= 0 else recorded.llm_child[first + node]
            if child >= 0 and place[child] == 0:
                place[child] = after
                after += size[child]


@inlined
def said_child(recorded, node, exit_index):
    """Where the token of an exit leads in its graph, as a walk has it: where the LLM's does, or that of the first exit which says the same."""
    token = recorded.exit_token[node, exit_index]
    if token == recorded.llm_token[node]:
        return recorded.llm_child[node]
    for before in range(exit_index):
        if recorded.exit_token[node, before] == token:
            return recorded.exit_child[node, before]
    return recorded.exit_child[node, exit_index]


@inlined
def placed(child, first, place):
    """The place in all graphs of a child in its own."""
    return first + place[child] if child >= 0 else -1
