"""Whether the description and the arrays of a graph set fit together, so that whoever walks them can trust every index.

Checks run over the nodes of many graphs at once. What does not live here: the arrays' meaning (graph.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from traces.synera.graph import GraphMeta

Arrays = dict[str, NDArray[Any]]
EXITS = "exits"
"""Placeholder for the number of exits in the shapes below."""

# name -> (dtype, shape after [nodes]); the order is the file's.
NODE_ARRAYS: dict[str, tuple[type[np.generic], tuple[int | str, ...]]] = {
    "token": (np.int32, ()),  # token that leads here from the parent; -1 at the root
    "parent": (np.int32, ()),  # -1 at the root
    "depth": (np.int32, ()),  # generated tokens
    "score": (np.float32, ()),  # task score 0..1 of a terminal node, NaN elsewhere
    "exit_token": (np.int32, (EXITS,)),  # what is said at a node: -1 or 0 at terminal nodes, where nothing is
    "confidence": (np.float32, (EXITS,)),  # top-1 probability
    "margin": (np.float32, (EXITS,)),  # top-1 minus top-2 probability
    "entropy": (np.float32, (EXITS,)),  # nats
    "runner_up": (np.int32, (EXITS,)),
    "sketch": (np.float16, (EXITS, 16)),  # hidden state on the lens's principal directions, -8..8
    "llm_probability": (np.float32, (EXITS,)),  # that the LLM gives to the exit's token
    "llm_token": (np.int32, ()),
    "exit_child": (np.int32, (EXITS,)),  # node reached by the exit's token, after this one; -1 where not recorded
    "llm_child": (np.int32, ()),
}
LENS = ("lens.mean", "lens.directions", "lens.rejection", "lens.importance")
_OFFSETS = ("node_offsets", "prompt_offsets")
_ALL = {*NODE_ARRAYS, *LENS, *_OFFSETS, "prompt_tokens"}
_CLUES = 21
"""Weights of the lens for each exit."""
_IMPORTANCE = (9, 101)  # draft lengths from 0, quantiles
_PART_NODES = 2**16
_ROUNDING = 1e-5  # by which a probability may leave 0..1


def node_shape(exits: int, tail: Iterable[int | str]) -> tuple[int, ...]:
    """Return the shape of an array after [nodes], with that many exits."""
    return tuple(exits if size == EXITS else int(size) for size in tail)


def node_bytes(exits: int) -> int:
    """Return what a node takes in the arrays of a graph, and in its file."""
    return sum(np.dtype(dtype).itemsize * math.prod(node_shape(exits, tail)) for dtype, tail in NODE_ARRAYS.values())


def fault(meta: GraphMeta, arrays: Arrays) -> str | None:
    """Return the first thing that is wrong, as one clause; None where all is well."""
    for check in (_layout, _links, _tree, _figures, _rest):
        for part in [arrays] if check in (_layout, _rest) else _parts(arrays):
            for reason in check(meta, part):
                return reason
    return None


def _parts(arrays: Arrays) -> Iterator[Arrays]:
    """Some prompts at a time, so that nothing as large as all graphs is made."""
    offsets, first = arrays["node_offsets"], 0
    while first < len(offsets) - 1:
        stop = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _PART_NODES, side="right")) - 1)
        nodes = slice(offsets[first], offsets[stop])
        part = {name: arrays[name][nodes] for name in NODE_ARRAYS} | {name: arrays[name] for name in LENS}
        yield part | {"node_offsets": offsets[first : stop + 1] - offsets[first]}
        first = stop


def _layout(meta: GraphMeta, arrays: Arrays) -> Iterator[str]:
    """Names, types and shapes."""
    if missing := _ALL - set(arrays):
        yield f"it lacks {', '.join(sorted(missing))}"
    if unknown := set(arrays) - _ALL:
        yield f"it holds {sorted(unknown)[0]!r}, which graphs have not"
    if len(meta.kinds) != len(meta.prompts):
        yield f"{len(meta.kinds)} kinds for {len(meta.prompts)} prompts"
    nodes, exits, hidden = arrays["token"].size, len(meta.exit_layers), arrays["lens.mean"].shape[-1:]
    wanted: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        name: (dtype, (nodes, *node_shape(exits, tail))) for name, (dtype, tail) in NODE_ARRAYS.items()
    }
    wanted |= {
        "prompt_tokens": (np.int32, (arrays["prompt_tokens"].size,)),
        **{name: (np.int64, (len(meta.prompts) + 1,)) for name in _OFFSETS},
        "lens.mean": (np.float32, (exits, *hidden)),
        "lens.directions": (np.float32, (exits, 16, *hidden)),
        "lens.rejection": (np.float32, (exits, _CLUES)),
        "lens.importance": (np.float32, _IMPORTANCE),
    }
    for name, stop in (("node_offsets", nodes), ("prompt_offsets", arrays["prompt_tokens"].size)):
        offsets = arrays[name]
        divides = offsets.shape == wanted[name][1] and offsets[0] == 0 and offsets[-1] == stop and (np.diff(offsets) > 0).all()
        if not divides:
            yield f"{name} does not divide the {len(meta.prompts)} prompts"
    for name, (dtype, shape) in wanted.items():
        found = arrays[name]
        if found.shape != shape or found.dtype != dtype:
            yield f"{name} is {found.dtype}{list(found.shape)}, expected {np.dtype(dtype)}{list(shape)}"


def _links(meta: GraphMeta, arrays: Arrays) -> Iterator[str]:
    """Every index stays in its graph; a parent comes before its children, so that any walk ends."""
    first, local = _places(arrays)
    sizes = np.diff(arrays["node_offsets"])
    size = np.repeat(sizes, sizes)
    for name in ("exit_child", "llm_child", "parent"):
        index = arrays[name].reshape(len(first), -1)
        if (index < -1).any() or (index >= size[:, None]).any():
            yield f"{name} points outside its graph"
    for name in ("exit_child", "llm_child"):
        index = arrays[name].reshape(len(first), -1)
        if ((index >= 0) & (index <= local[:, None])).any():
            yield f"{name} points back"
    if (arrays["parent"] >= local).any():
        yield "parent points forward"


def _tree(meta: GraphMeta, arrays: Arrays) -> Iterator[str]:
    """Parents and children say the same of each other."""
    first, local = _places(arrays)
    parent, depth, token = arrays["parent"], arrays["depth"], arrays["token"]
    root = local == 0
    if (parent[root] != -1).any() or (token[root] != -1).any() or depth[root].any():
        yield "a prompt's own node has a parent, a token or a depth"
    if (parent[~root] < 0).any() or (token[~root] < 0).any():
        yield "a node that is not the prompt's has no parent or no token"
    if (depth[~root] != depth[(first + parent)[~root]] + 1).any() or (depth > meta.max_new_tokens).any():
        yield f"depth is not one more than the parent's, up to {meta.max_new_tokens}"
    for name, said in (("exit_child", "exit_token"), ("llm_child", "llm_token")):
        child, tokens = arrays[name].reshape(len(first), -1), arrays[said].reshape(len(first), -1)
        node, source = np.nonzero(child >= 0)
        target = first[node] + child[node, source]
        if (parent[target] != local[node]).any():
            yield f"{name} points to a node of another parent"
        if (token[target] != tokens[node, source]).any():
            yield f"{name} points to a node of another token than {said}"
    ended = ~np.isnan(arrays["score"])
    if (arrays["exit_child"][ended] >= 0).any() or (arrays["llm_child"][ended] >= 0).any():
        yield "an answer goes on after its score"
    if ended[root].any() or not ((arrays["score"][ended] >= 0) & (arrays["score"][ended] <= 1)).all():
        yield "a score is outside 0..1, or a prompt's own"


def _figures(meta: GraphMeta, arrays: Arrays) -> Iterator[str]:
    """What the models said is what models can say."""
    inner = np.isnan(arrays["score"])
    for name in ("exit_token", "llm_token", "runner_up"):
        if (arrays[name] < -1).any() or (arrays[name][inner] < 0).any():
            yield f"{name} is negative"
    ranges = {name: (0.0, 1.0) for name in ("confidence", "margin", "llm_probability")}
    for name, (low, high) in (ranges | {"entropy": (0.0, 100.0), "sketch": (-8.0, 8.0), "lens.importance": (0.0, 1.0)}).items():
        values = arrays[name].astype(np.float32, copy=False)  # halves are compared one by one
        if not ((values >= low - _ROUNDING) & (values <= high + _ROUNDING)).all():  # also false for NaN
            yield f"{name} has values outside {low:g}..{high:g}"
    if (arrays["margin"] > arrays["confidence"] + _ROUNDING).any():
        yield "a margin exceeds its confidence"
    for name in LENS:
        if not np.isfinite(arrays[name]).all():
            yield f"{name} has values that are not finite"


def _rest(meta: GraphMeta, arrays: Arrays) -> Iterator[str]:
    """Prompts fit the context, and have tokens."""
    if (arrays["prompt_tokens"] < 0).any():
        yield "prompt_tokens is negative"
    longest = int(np.diff(arrays["prompt_offsets"]).max())
    if longest + meta.max_new_tokens > meta.context:
        yield f"a prompt of {longest} tokens and an answer of {meta.max_new_tokens} exceed the context of {meta.context}"


def _places(arrays: Arrays) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each node of all graphs, the index of its graph's first node, and its place in its graph."""
    offsets = arrays["node_offsets"]
    first = np.repeat(offsets[:-1], np.diff(offsets))
    return first, np.arange(len(first)) - first
