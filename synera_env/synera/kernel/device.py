"""The device of a row: its walk through the graph, what it drafts, and on from a guess; compiled.

The counterpart of synera_env/synera/walk.py and of the drafting of runtime/synera/session.py. What does not live here: the cloud (cloud.py), and what
becomes of a draft (answer.py).
"""

# mypy: ignore-errors

from __future__ import annotations

import numpy as np

from runtime.synera.ahead import BONUS_MARGIN, likeliest_end
from runtime.synera.lens import chunk_importance, importance_reached, rejection
from synera_env.synera.kernel.formulas import compiled, inlined
from synera_env.synera.kernel.state import NOTHING
from traces.profile import draft_seconds, segment_ms

UNKNOWN = -1
NOT_RUN = -2
"""What the LLM says at a node of a growing graph at which nothing is known yet."""
TAKE_UP = -2
"""A row wants NOTHING; or, from here on down, the graph of prompt TAKE_UP - wanted; or, from 0 on, that a node be run."""
_EXPONENTS = np.float32(2.0**112)  # by which the exponents of single precision are biased more than those of halves


@compiled
def half(bits):
    """Return a half-precision number, not infinite, by its bits, in single precision."""
    value = np.uint32(np.uint32(bits & np.uint16(0x7FFF)) << np.uint32(13)).view(np.float32) * _EXPONENTS
    return -value if bits & np.uint16(0x8000) else value


@compiled
def is_end(eos, token):
    """Whether a token ends an answer."""
    for each in eos:  # noqa: SIM110 - compiled code has no generators
        if token == each:
            return True
    return False


@inlined
def lacks(graphs, r, node):
    """Whether a node was not run; it is noted for the row, the first of them alone, as what comes after it means nothing."""
    if graphs.nodes[node].llm_token != NOT_RUN:
        return False
    if r.wanted == NOTHING:
        r.wanted = node
    return True


@inlined
def child_of(graphs, r, node, token):
    """The node that a token leads to from a node, by their places; -1 where none is known."""
    if lacks(graphs, r, node):
        return -1
    if token == graphs.nodes[node].llm_token:
        return graphs.nodes[node].llm_child
    for exit_index in range(graphs.exits.shape[1]):
        if graphs.exits[node, exit_index].token == token:
            return graphs.exits[node, exit_index].child
    return -1


@inlined
def push(graphs, state, row, r, token):
    """Append a token to the prefix; it may lead out of the graph, and be UNKNOWN there."""
    child = -1
    if r.held == r.known and token != UNKNOWN:
        child = child_of(graphs, r, state.path[row, r.known], token)
    step_to(state, row, r, token, child)


@inlined
def step_to(state, row, r, token, child):
    """Append a token, and the node that it leads to, which is below 0 where none is known."""
    state.token[row, r.held] = token
    r.held += 1
    if child >= 0:
        r.known += 1
        state.path[row, r.known] = child


@inlined
def rollback(state, row, r, length):
    """Keep the prompt and so many tokens."""
    r.held = min(r.held, length)
    r.known = min(r.known, r.held)
    truncate(state, row, r.prompt_tokens + length)


@inlined
def truncate(state, row, length):
    """Forget what positions from `length` on have reached."""
    for exit_index in range(state.reached.shape[1]):
        state.reached[row, exit_index] = min(state.reached[row, exit_index], length)


@inlined
def walk_exits(graphs, figures, state, row, r, node, deepest, exit_margin):
    """Take the last position from exit to exit, charge it, and return the exit that it left at; beyond the graph `node` is -1."""
    length = r.prompt_tokens + r.held
    truncate(state, row, length - 1)
    ran_ms, heads, left, above = 0.0, 0, deepest, 0
    for exit_index in range(deepest + 1):
        positions = length - state.reached[row, exit_index]
        state.reached[row, exit_index] = length
        layers = graphs.exit_layers[exit_index]
        ran_ms += segment_ms(layers - above, positions, figures.layer_ms, figures.position_ms)
        above = layers
        last = exit_index == deepest
        if last or exit_margin < 1.0:
            heads += 1
            margin = float(graphs.exits[node, exit_index].margin) if node >= 0 else 0.0
            if last or margin >= exit_margin:
                left = exit_index
                break
    r.now = max(r.now, r.now + draft_seconds(figures.call_ms, ran_ms, heads, figures.head_ms))
    return left


@inlined
def draft_token(graphs, figures, state, row, r, deepest, exit_margin, tokens, nodes, exits, confidences, margins, place):
    """Draft the next token and note it at a place of the five arrays; beyond the graph it is UNKNOWN."""
    node = state.path[row, r.known]
    if r.held > r.known or lacks(graphs, r, node):
        walk_exits(graphs, figures, state, row, r, -1, deepest, exit_margin)
        tokens[place] = UNKNOWN
        step_to(state, row, r, UNKNOWN, -1)
        return
    left = walk_exits(graphs, figures, state, row, r, node, deepest, exit_margin)
    said = graphs.exits[node, left]
    tokens[place], nodes[place], exits[place] = said.token, node, left
    confidences[place], margins[place] = said.confidence, said.margin
    step_to(state, row, r, said.token, said.child)


@inlined
def draft_chunk(graphs, tables, figures, state, row, r, deepest, exit_margin, draft_length):
    """Draft what is next in hand, beginning with what was kept; return False where the graph does not know it."""
    began, drafted = r.now, r.kept
    r.kept = 0
    most = min(draft_length, r.room - r.generated)
    while drafted < most and not (drafted and is_end(graphs.eos, r.draft_token[drafted - 1])):
        if r.held > r.known:
            return False
        into = (r.draft_token, r.draft_node, r.draft_exit, r.draft_confidence_of, r.draft_margin)
        draft_token(graphs, figures, state, row, r, deepest, exit_margin, *into, drafted)
        if r.wanted != NOTHING:
            return False
        drafted += 1
    r.drafted, r.draft_seconds = drafted, r.now - began
    least = r.draft_confidence_of[0]
    for place in range(drafted):
        least = min(least, r.draft_confidence_of[place])
        r.draft_rejected[place] = rejected(graphs, tables, r.draft_node[place], r.draft_exit[place])
    r.draft_confidence = least
    r.draft_importance = importance_reached(chunk_importance(r.draft_rejected[:drafted]), tables.importance[drafted])
    return True


@compiled
def rejected(graphs, tables, node, exit_index):
    """How likely the LLM rejects the token of an exit at a node; worked out once."""
    said = graphs.exits[node, exit_index]
    if said.rejected == 0.0:
        sketch = graphs.one_sketch
        for direction in range(len(sketch)):
            sketch[direction] = half(said.sketch[direction])
        felt = float(said.confidence), float(said.margin), float(said.entropy)
        said.rejected = rejection(felt[0], felt[1], felt[2], sketch, tables.rejection[exit_index])
    return said.rejected


@inlined
def draft_ahead(graphs, figures, state, row, r, deepest, exit_margin, draft_length, threshold):
    """Draft the next chunk on from a guess, until it is whole or the reply is known."""
    r.guessed, r.ran, r.run_seconds = False, 0, 0.0
    if threshold >= 1.0 or r.now >= r.known_at:
        return
    drafted = r.drafted
    exponent = r.rejections / r.risk
    accepted, probability = likeliest_end(exponent, r.draft_confidence_of[:drafted], r.draft_margin[:drafted])
    corrected = accepted < drafted
    ends = False
    for place in range(accepted):
        ends |= is_end(graphs.eos, r.draft_token[place])
    correction = 0
    if corrected:
        correction = graphs.exits[r.draft_node[accepted], r.draft_exit[accepted]].runner_up
        ends |= is_end(graphs.eos, correction)
    most = min(draft_length, r.room - r.generated - accepted - 1)
    if probability < threshold or ends or most < 1:
        return
    rollback(state, row, r, r.generated + accepted)
    r.guessed, r.guess_accepted, r.corrected, r.guess_correction = True, accepted, corrected, correction
    margin = exit_margin
    if corrected:
        push(graphs, state, row, r, correction)
    else:
        most += 1
        margin = min(exit_margin, BONUS_MARGIN)
    ran = 0
    while ran < most and not (ran and (is_end(graphs.eos, r.run_token[ran - 1]) or r.now >= r.known_at)):
        began = r.now
        into = (r.run_token, r.run_node, r.run_exit, r.run_confidence_of, r.run_margin)
        draft_token(graphs, figures, state, row, r, deepest, margin, *into, ran)
        r.run_second[ran] = r.now - began
        r.run_seconds += r.run_second[ran]
        margin = exit_margin
        ran += 1
    r.ran = ran
