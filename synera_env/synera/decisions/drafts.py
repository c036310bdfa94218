"""What each way of drafting drafts at each node of token graphs, what becomes of it, and which drafts can be come to; compiled.

What does not live here: what anything costs (prices.py), and what it is worth (agents/counterfactual).
"""

# mypy: ignore-errors

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

KEPT, ASKED = 0, 1
"""Layers of states: before the first check of an answer, and from then on."""
LAYERS = 2


class Nodes(NamedTuple):
    """Arrays of all nodes of a graph set, children by their place in it; [nodes] and [nodes, exits]."""

    exit_token: NDArray[np.int32]
    margin: NDArray[np.float32]
    exit_child: NDArray[np.int64]
    llm_token: NDArray[np.int32]
    llm_child: NDArray[np.int64]
    ended: NDArray[np.bool_]
    eos: NDArray[np.bool_]
    """[tokens]: whether it ends an answer."""


class Ways(NamedTuple):
    """Ways of drafting, [ways] each."""

    exit_index: NDArray[np.int64]
    exit_margin: NDArray[np.float64]
    draft_length: NDArray[np.int64]


class Drafts(NamedTuple):
    """What each way drafts at each node, [nodes, ways] or [nodes, ways, exits]."""

    drafted: NDArray[np.int8]
    """Tokens; 0 where the graph does not know them all."""
    same: NDArray[np.int8]
    """The first way that drafts the same, token by token at the same exits."""
    keep: NDArray[np.int32]
    """Node after keeping it; -1 where it is not known."""
    check: NDArray[np.int32]
    """Node after a check of it; likewise."""
    accepted: NDArray[np.int8]
    """By a check, where the graph knows."""
    heads: NDArray[np.int8]
    """Output heads run."""
    runs: NDArray[np.int8]
    """Tokens that ran the layers below an exit."""
    further: NDArray[np.int8]
    """Earlier positions of the draft that were run with them, as they had left before."""
    left_kept: NDArray[np.int8]
    """Positions that the next token must run through the layers below an exit besides its own, after keeping the draft."""
    left_checked: NDArray[np.int8]
    """The same after a check of it."""


def no_drafts(nodes: int, ways: int, exits: int) -> Drafts:
    """Return room for those of so many nodes."""
    counts = {name: np.zeros((nodes, ways), np.int8) for name in ("drafted", "same", "accepted", "heads")}
    by_exit = {name: np.zeros((nodes, ways, exits), np.int8) for name in ("runs", "further", "left_kept", "left_checked")}
    leads = {name: np.full((nodes, ways), -1, np.int32) for name in ("keep", "check")}
    return Drafts(**counts, **by_exit, **leads)


@njit(nogil=True, cache=True)
def exit_of(margin, node, deepest, exit_margin):
    """The exit that a token leaves at."""
    if exit_margin < 1.0:
        for exit_index in range(deepest):
            if margin[node, exit_index] >= exit_margin:
                return exit_index
    return deepest


@njit(nogil=True, cache=True)
def draft_all(nodes, ways, out):
    """Fill in what each way drafts at each node; `runtime.synera.session` and `synera_env.synera.walk` say what that is."""
    exits = nodes.exit_token.shape[1]
    last = np.zeros(exits, np.int64)
    code = np.zeros(len(ways.exit_index), np.int64)
    for node in range(len(nodes.llm_token)):
        if nodes.ended[node]:
            continue
        for way in range(len(ways.exit_index)):
            drafted, said, at, agreed, differs = 0, 1, node, 0, -1
            last[:] = -1
            known = True
            while drafted < ways.draft_length[way]:
                if at < 0:
                    known = False
                    break
                left = exit_of(nodes.margin, at, ways.exit_index[way], ways.exit_margin[way])
                for exit_index in range(left + 1):
                    out.runs[node, way, exit_index] += 1
                    out.further[node, way, exit_index] += drafted - 1 - last[exit_index]
                    last[exit_index] = drafted
                out.heads[node, way] += left + 1 if ways.exit_margin[way] < 1.0 else 1
                token = nodes.exit_token[at, left]
                if differs < 0:
                    if token == nodes.llm_token[at]:
                        agreed += 1
                    else:
                        differs = at
                said = said * exits + left
                drafted += 1
                at = nodes.exit_child[at, left]
                if nodes.eos[token] or (at >= 0 and nodes.ended[at]):
                    break
            code[way] = said
            if not known:
                code[way] = -1
                continue
            out.drafted[node, way], out.keep[node, way], out.accepted[node, way] = drafted, at, agreed
            if differs >= 0:
                out.check[node, way] = nodes.llm_child[differs]
            elif at >= 0:
                out.check[node, way] = at if nodes.ended[at] else nodes.llm_child[at]
            for exit_index in range(exits):
                out.left_kept[node, way, exit_index] = drafted - 1 - last[exit_index]
                out.left_checked[node, way, exit_index] = agreed - min(last[exit_index], agreed)
            out.same[node, way] = way
            for other in range(way):
                if code[other] == said:
                    out.same[node, way] = other
                    break


@njit(nogil=True, cache=True)
def states_of(offsets, ended, drafts, first_way, state, roots):
    """Number the states of each prompt: the drafts that are come to from its first one, and from which an answer can come to its end.

    A child lies after its parent, so that one pass back says which drafts can end, and one forth which are come to.

    Args:
        offsets: of each prompt's nodes, [prompts + 1].
        ended: see Nodes.
        drafts: see Drafts.
        first_way: how the first chunk is drafted.
        state: [nodes, ways, layers], gets the number of each draft's state, -1 where it has none.
        roots: [prompts], gets that of the first draft.

    Returns:
        Numbers of states before each prompt, [prompts + 1].
    """
    ways = drafts.drafted.shape[1]
    ends = np.zeros(state.shape, np.bool_)
    opens = np.zeros((len(ended), LAYERS), np.bool_)  # a state of the node's can end, or the node has
    reached = np.zeros((len(ended), LAYERS), np.bool_)
    starts = np.zeros(len(offsets), np.int64)
    count = 0
    for prompt in range(len(offsets) - 1):
        root, stop = offsets[prompt], offsets[prompt + 1]
        for node in range(stop - 1, root - 1, -1):
            if ended[node]:
                opens[node, :] = True
                continue
            for way in range(ways):
                if drafts.drafted[node, way] == 0:
                    continue
                keep, check = drafts.keep[node, way], drafts.check[node, way]
                for layer in range(LAYERS):
                    can = (keep >= 0 and opens[keep, layer]) or (check >= 0 and opens[check, ASKED])
                    ends[node, way, layer] = can
                    opens[node, layer] |= can
        roots[prompt] = -1
        for node in range(root, stop):
            if ended[node]:
                continue
            for layer in range(LAYERS):
                at_root = node == root and layer == KEPT
                if not (at_root or reached[node, layer]):
                    continue
                for way in range(ways):
                    if not ends[node, way, layer] or (at_root and way != drafts.same[node, first_way]):
                        continue
                    if drafts.same[node, way] != way:
                        state[node, way, layer] = state[node, drafts.same[node, way], layer]
                        continue
                    state[node, way, layer] = count
                    if at_root:
                        roots[prompt] = count
                    count += 1
                    keep, check = drafts.keep[node, way], drafts.check[node, way]
                    if keep >= 0:
                        reached[keep, layer] = True
                    if check >= 0:
                        reached[check, ASKED] = True
        starts[prompt + 1] = count
    return starts


@njit(nogil=True, cache=True)
def look(node, way, base, drafted, ways, child, felt, rejected, columns, single, seen, last_node, last_exit, stands):
    """Write what is seen of drafts, token by token.

    Args:
        node: [states] that they begin at, likewise `way`, `base` (of their prompt's nodes) and `drafted`.
        way: in which they were drafted.
        base: see there.
        drafted: tokens.
        ways: see Ways.
        child: [nodes, exits], within a prompt.
        felt: [nodes, exits, 3]: confidence, margin and entropy.
        rejected: [nodes, exits].
        columns: [3, longest]: where each of them goes, by token.
        single: [3]: where the length, the least confidence and the mean exit go.
        seen: [states, entries], is written to.
        last_node: [states], gets where the last token was said, likewise `last_exit`.
        last_exit: see there.
        stands: [states] of ones, gets the product of 1 - rejected.
    """
    for state in range(len(node)):
        at, chosen, least, exits = np.int64(node[state]), way[state], np.float32(1.0), 0
        for place in range(columns.shape[1]):
            if place >= drafted[state]:
                seen[state, columns[0, place]] = 1.0
                seen[state, columns[1, place]] = 1.0
                seen[state, columns[2, place]] = 0.0
                continue
            left = exit_of(felt[:, :, 1], at, ways.exit_index[chosen], ways.exit_margin[chosen])
            for figure in range(3):
                seen[state, columns[figure, place]] = felt[at, left, figure]
            least = min(least, felt[at, left, 0])
            exits += left
            stands[state] *= 1.0 - rejected[at, left]
            last_node[state], last_exit[state] = at, left
            at = base[state] + child[at, left]
        seen[state, single[0]] = drafted[state] / columns.shape[1]
        seen[state, single[1]] = least
        seen[state, single[2]] = exits / drafted[state] / max(1, felt.shape[1] - 1)
