"""The compiled step: all rows, one decision each. What does not live here: the environment that calls it (synera_env/synera/vector.py).

It is compiled once a machine, and again when any source of it changes.
"""

# mypy: ignore-errors

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from synera_env.reward import TERMS, priced
from synera_env.schema import knob_value
from synera_env.synera.kernel.answer import begin, keep_run, settle
from synera_env.synera.kernel.device import draft_chunk, is_end
from synera_env.synera.kernel.fetch import fetch
from synera_env.synera.kernel.formulas import OPTIONS, inlined, sources
from synera_env.synera.kernel.sight import METRICS, encode, measure
from synera_env.synera.kernel.state import NOTHING
from synera_env.synera.kernel.world import KNOBS

RESET, SAME_STEP, NEXT_STEP, DISABLED = range(4)
"""What a call does: begin all rows; or step, and begin those whose answer is over within the same or with the next step, or not."""


class Out(NamedTuple):
    """What a call writes; rows are the last axis, but for observations."""

    observation: NDArray[np.float32]
    """[rows, entries]."""
    final: NDArray[np.float32]
    """[rows, entries]: of an answer that is over, where `observation` is already of the next one."""
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    offloaded: NDArray[np.bool_]
    quality_known: NDArray[np.bool_]
    terms: NDArray[np.float64]
    """[terms, rows]."""
    knobs: NDArray[np.float64]
    """[knobs, rows]."""
    metrics: NDArray[np.float64]
    """[metrics, rows]: where `terminated`."""
    vector_reward: NDArray[np.float64]
    """[rows, terms]: unweighted."""


def new_out(rows: int, entries: int) -> Out:
    """Return room for what a call writes."""
    flags = [np.empty(rows, np.bool_) for _ in range(4)]
    tables = [np.empty((len(names), rows)) for names in (TERMS, KNOBS, METRICS)]
    seen = [np.empty((rows, entries), np.float32) for _ in range(2)]
    return Out(*seen, np.empty(rows), *flags, *tables, np.empty((rows, len(TERMS))))


@inlined
def advance(graphs, links, tables, figures, state, row, r, knobs, out, metrics):
    """Decide one row; return whether its answer is over, or None where the graph does not know."""
    covered, seconds, cloud_seconds, joules = settle(graphs, links, tables, figures, state, row, r, knobs)
    if not covered:
        return False, False
    last = state.token[row, r.generated - 1]
    over = r.generated == r.room or is_end(graphs.eos, last)
    quality = 0.0
    if over:
        if r.held > r.known:
            return False, False
        quality = float(graphs.nodes[state.path[row, r.known]].score)
    else:
        keep_run(r)
        if not draft_chunk(graphs, tables, figures, state, row, r, int(knobs[2]), knobs[3], int(knobs[4])):
            return False, False
    known = not math.isnan(quality)
    w, traffic = r.weights, r.uplink + r.downlink
    terms = priced(quality if known else 0.0, seconds, cloud_seconds, joules, traffic, w[0], w[1], w[2], w[3], w[4])
    out.reward[row] = terms[0] + terms[1] + terms[2] + terms[3] + terms[4]
    of = priced(quality if known else 0.0, seconds, cloud_seconds, joules, traffic, 1.0, 1.0, 1.0, 1.0, 1.0)
    for place in range(len(w)):
        out.terms[place, row], out.vector_reward[row, place] = terms[place], of[place]
    out.offloaded[row], out.quality_known[row], out.terminated[row] = r.asked, known, over
    r.reward += out.reward[row]
    r.cloud_seconds, r.joules = r.cloud_seconds + cloud_seconds, r.joules + joules
    if over:
        measure(r, state.committed_at[row], quality, metrics)
        for place in range(len(metrics)):
            out.metrics[place, row] = metrics[place]
    else:
        encode(graphs, tables, r, state.seen[row])
    return True, over


@inlined
def copy(source, target, row):
    """Copy a row."""
    for entry in range(source.shape[1]):
        target[row, entry] = source[row, entry]


@inlined
def no_reward(out, row):
    """Note that a row earns nothing."""
    for place in range(out.terms.shape[0]):
        out.terms[place, row], out.vector_reward[row, place] = 0.0, 0.0


@inlined
def choose_knobs(tables, action, knobs):
    """Turn an action into knobs."""
    for place in range(len(knobs)):
        share = (min(max(float(action[place]), -1.0), 1.0) + 1.0) / 2.0
        knobs[place] = knob_value(share, tables.knob_low[place], tables.knob_high[place], tables.knob_whole[place])


def _kernel(version: int):
    """Compile the step; the version is part of it, so that what was compiled of other sources is not taken up."""

    def step(world, state, actions, chosen, mode, out):
        graphs, links, tables, figures = world.graphs, world.links, world.tables, world.figures[0]
        knobs, metrics = state.knobs, state.metrics
        spent = 0
        for row in range(len(state.rows)):
            if not state.todo[row]:
                continue
            r = state.rows[row]
            fetch(graphs, state, row)
            out.reward[row], out.terminated[row], out.truncated[row], out.offloaded[row] = 0.0, False, False, False
            out.quality_known[row] = True
            over = mode == RESET or r.over
            if r.over and mode == DISABLED:
                over = False
                for place in range(len(knobs)):
                    out.knobs[place, row] = math.nan
                no_reward(out, row)
            elif not over:
                choose_knobs(tables, actions[row], knobs)
                for place in range(len(knobs)):
                    out.knobs[place, row] = knobs[place]
                covered, ended = advance(graphs, links, tables, figures, state, row, r, knobs, out, metrics)
                if r.wanted != NOTHING:
                    continue
                if not covered:
                    out.truncated[row] = True
                    no_reward(out, row)
                elif ended:
                    for entry in range(len(tables.low)):
                        state.seen[row, entry] = min(max(np.float32(0.0), tables.low[entry]), tables.high[entry])
                r.over = not covered or ended
                if r.over:
                    copy(state.seen, out.final, row)
                over = r.over and mode == SAME_STEP
            else:
                for place in range(len(knobs)):
                    out.knobs[place, row] = math.nan
                no_reward(out, row)
            if over:
                r.over = False
                begin(graphs, links, tables, figures, state, row, r, chosen[row])
                if r.wanted != NOTHING:
                    continue
                encode(graphs, tables, r, state.seen[row])
            copy(state.seen, out.observation, row)
            spent += r.taken == state.seeds.shape[1]
        return spent, version

    try:
        return njit(nogil=True, cache=True, **OPTIONS)(step)
    except RuntimeError:  # numba finds no folder that can be written
        return njit(nogil=True, **OPTIONS)(step)


step = _kernel(sources())
