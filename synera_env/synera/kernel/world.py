"""What a replayed world is made of, as arrays that compiled code reads: graphs, links, profiles, lens, and how they are shown.

What does not live here: how nodes are laid (nodes.py), the state of answers (state.py) and what becomes of it (step.py).
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.synera.knobs import MAX_DRAFT_LENGTH
from runtime.synera.lens import SKETCH_SIZE
from runtime.wire.sizes import varint_bytes
from synera_env.radio import HORIZON_SECONDS
from synera_env.reward import SPREAD, TERMS, Preference
from synera_env.schema import Schema
from synera_env.synera.kernel.nodes import room
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import HISTORY
from traces.synera.graph import GraphSet

KNOBS = (
    "confidence_threshold",
    "importance_threshold",
    "exit_index",
    "exit_margin",
    "draft_length",
    "draft_ahead",
    "offload_budget",
)
"""The order in which compiled code reads an action."""
FEATURES = {
    "draft_tokens": 1,
    "confidence": MAX_DRAFT_LENGTH,
    "margin": MAX_DRAFT_LENGTH,
    "entropy": MAX_DRAFT_LENGTH,
    "least_confidence": 1,
    "importance": 1,
    "mean_exit": 1,
    "sketch": SKETCH_SIZE,
    "past_confidence": HISTORY,
    "past_importance": HISTORY,
    "past_offloaded": HISTORY,
    "past_accepted": HISTORY,
    "acceptance": 1,
    "guess_hits": 1,
    "offload_rate": 1,
    "chunks": 1,
    "progress": 1,
    "prompt_tokens": 1,
    "rtt": 1,
    "rtt_known": 1,
    "throughput": 1,
    "queue": 1,
    "compute": 1,
    "load": 1,
    "cloud_lost": 1,
    **{f"weight_{term}": 1 for term in TERMS},
}
"""The rows in the order in which compiled code writes them, and their sizes."""
GROUPED = (
    *("confidence", "margin", "entropy"),
    *(f"past_{name}" for name in ("confidence", "importance", "offloaded", "accepted")),
)
"""Those that lie interleaved: by token, and by chunk."""


class Recorded(NamedTuple):
    """All prompts' graphs as their file has them; see `traces.synera.graph_check.NODE_ARRAYS`. Of graphs that grow, nothing."""

    node_offsets: NDArray[np.int64]
    """[prompts + 1]"""
    parent: NDArray[np.int32]
    llm_token: NDArray[np.int32]
    llm_child: NDArray[np.int32]
    score: NDArray[np.float32]
    exit_token: NDArray[np.int32]
    exit_child: NDArray[np.int32]
    confidence: NDArray[np.float32]
    margin: NDArray[np.float32]
    entropy: NDArray[np.float32]
    runner_up: NDArray[np.int32]
    sketch: NDArray[np.uint16]


class Graphs(NamedTuple):
    """The prompts, and the graphs of those that an answer was begun to; the others are read then."""

    recorded: Recorded
    root: NDArray[np.int64]
    """[prompts]: place of the prompt's own node; -1 where its graph is not laid yet."""
    nodes: NDArray[Any]
    """[nodes] of NODE."""
    exits: NDArray[Any]
    """[nodes, exits] of EXIT."""
    order: NDArray[np.int32]
    """[2, nodes of the largest graph]: room to choose the places of one."""
    laid: NDArray[np.int64]
    """[1]: how many graphs were laid by compiled code, whose pages of the file are read no more."""
    one_sketch: NDArray[np.float64]
    """[directions]: room for one."""
    prompt_tokens: NDArray[np.int64]
    """[prompts]: length."""
    prompt_bytes: NDArray[np.int64]
    """[prompts]: of its tokens as varints."""
    startable: NDArray[np.int64]
    exit_layers: NDArray[np.int64]
    eos: NDArray[np.int64]


class Links(NamedTuple):
    """All link traces, end to end; see :meth:`traces.links.trace.LinkTrace.series`."""

    first: NDArray[np.int64]
    """[links + 1]: where a trace's samples begin; its bits passed begin as many places later as there are traces before it."""
    step_seconds: NDArray[np.float64]
    samples: NDArray[np.float64]
    """[samples, 3]: half round trip in seconds; bits per second at UPLINK and DOWNLINK. Side by side, as a message reads both."""
    uplink_passed: NDArray[np.float64]
    downlink_passed: NDArray[np.float64]


UPLINK, DOWNLINK = 1, 2
"""Columns of :attr:`Links.samples`."""


class Tables(NamedTuple):
    """What is neither a graph nor a link."""

    rejection: NDArray[np.float64]
    importance: NDArray[np.float64]
    queue_ms: NDArray[np.float64]
    load: NDArray[np.float64]
    edges: NDArray[np.float64]
    """[edges]: of a shared cloud, none where the profile says how busy it is; see :class:`traces.workload.shared_cloud.SharedCloud`."""
    starts: NDArray[np.float64]
    beside_tokens: NDArray[np.float64]
    beside_jobs: NDArray[np.float64]
    arrived: NDArray[np.float64]
    weights: NDArray[np.float64]
    """Of the preference: the fixed one, or the default that others are drawn around."""
    lowest_shown: NDArray[np.float64]
    """[weights]"""
    knob_low: NDArray[np.float64]
    knob_high: NDArray[np.float64]
    knob_whole: NDArray[np.bool_]
    low: NDArray[np.float32]
    high: NDArray[np.float32]


FIGURES = np.dtype(
    [
        *[(name, np.float64) for name in ("call_ms", "layer_ms", "position_ms", "head_ms")],
        *[(name, np.float64) for name in ("busy_watts", "wait_watts", "radio_joules_per_mb", "forward_ms", "token_ms")],
        *[(name, np.float64) for name in ("check_deadline", "horizon", "spread", "workload_seconds")],
        ("between", np.float64, (2,)),  # of outages and of blips
        ("lasts", np.float64, (2,)),
        ("draws_weights", np.bool_),
        *[(name, np.int64) for name in ("max_new_tokens", "context", "first_exit", "first_length", "said_after_the_end")],
        ("first_margin", np.float64),
    ],
    align=True,
)


class World(NamedTuple):
    """All of it."""

    graphs: Graphs
    links: Links
    tables: Tables
    figures: NDArray[Any]
    """[1] of FIGURES."""


def world_of(env: SyneraReplayEnv) -> World:
    """Return the world of a scalar environment; of graphs that grow, as far as they are taken up (pool.py)."""
    _require_rows(env.schema)
    return World(_graphs(env), _links(env), _tables(env), _figures(env))


def _require_rows(schema: Schema) -> None:
    """Compiled code reads knobs and writes features in an order of its own; a row that is new to it must not pass."""
    stated = {row.name: row.size for row in schema.features}
    grouped = [row.name for row in schema.features if row.group]
    same = tuple(row.name for row in schema.rows) == KNOBS and list(stated.items()) == list(FEATURES.items())
    if not same or grouped != list(GROUPED):
        raise ValueError(f"the rows of schema {schema.system} are not those of the compiled replay (synera_env/synera/kernel)")


def _graphs(env: SyneraReplayEnv) -> Graphs:
    recorded, meta = env.graphs if isinstance(env.graphs, GraphSet) else env.graphs.seed, env.graphs.meta
    arrays, prompts = recorded.arrays, len(recorded)
    offsets, tokens = arrays["prompt_offsets"], arrays["prompt_tokens"]
    size_of = {token: varint_bytes(token) for token in np.unique(tokens).tolist()}
    sizes = np.cumsum([0, *map(size_of.__getitem__, tokens.tolist())], dtype=np.int64)
    grows = recorded is not env.graphs
    if grows:
        arrays = {name: each[:0] for name, each in arrays.items()}
    nodes, exits = room(len(arrays["score"]), len(meta.exit_layers))
    return Graphs(
        recorded=Recorded(*(_frozen(arrays[name]) for name in Recorded._fields)),
        root=np.full(prompts, -1),
        nodes=nodes,
        exits=exits,
        order=np.zeros((2, 0 if grows else int(np.diff(arrays["node_offsets"]).max())), np.int32),
        laid=np.zeros(1, np.int64),
        one_sketch=np.zeros(SKETCH_SIZE),
        prompt_tokens=np.diff(offsets).astype(np.int64),
        prompt_bytes=np.diff(sizes[offsets]),
        startable=np.array(env.startable, np.int64),
        exit_layers=np.array(meta.exit_layers, np.int64),
        eos=np.array(meta.eos_ids, np.int64),
    )


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, as compiled code can read it, and read-only as a mapped one is, so that it is compiled for one kind."""
    view = np.ascontiguousarray(array.view(np.uint16) if array.dtype == np.float16 else array).view()
    view.flags.writeable = False
    return view


def _links(env: SyneraReplayEnv) -> Links:
    series = [link.series() for link in env.links]
    half_rtt, uplink, uplink_passed, downlink, downlink_passed = (
        np.concatenate([np.array(each[place], np.float64) for each in series]) for place in range(5)
    )
    first = np.cumsum([0, *(len(each[0]) for each in series)], dtype=np.int64)
    steps = np.array([float(link.step_seconds) for link in env.links])
    return Links(first, steps, np.stack([half_rtt, uplink, downlink], 1), uplink_passed, downlink_passed)


def _tables(env: SyneraReplayEnv) -> Tables:
    schema, fixed = env.schema, env.preferences
    base = fixed.low if fixed.low == fixed.high else Preference()
    rows, shared = schema.rows, env.cloud_load
    return Tables(
        rejection=env.lens.rejection.astype(np.float64),
        importance=env.lens.importance.astype(np.float64),
        queue_ms=np.array(env.cloud.queue_ms_quantiles, np.float64),
        load=np.array(env.cloud.load_quantiles, np.float64),
        **{name: np.zeros(0) if shared is None else getattr(shared, name) for name in Tables._fields[4:9]},
        weights=np.array(astuple(base), np.float64),
        lowest_shown=np.array([row.low for row in schema.features[-len(TERMS) :]], np.float64),
        knob_low=np.array([row.low for row in rows], np.float64),
        knob_high=np.array([row.high for row in rows], np.float64),
        knob_whole=np.array([row.integer for row in rows], np.bool_),
        low=schema.low,
        high=schema.high,
    )


def _figures(env: SyneraReplayEnv) -> NDArray[Any]:
    figures, meta, first = np.zeros(1, FIGURES), env.graphs.meta, env.schema.first_knobs
    for source in (env.device, env.cloud):
        for name in FIGURES.names or ():
            if hasattr(source, name):
                figures[name] = getattr(source, name)
    outages = env.outages
    blips_between, blip_seconds = outages.blips
    figures["between"], figures["lasts"] = (outages.every_seconds, blips_between), (outages.mean_seconds, blip_seconds)
    figures["check_deadline"], figures["horizon"], figures["spread"] = env.check_deadline, HORIZON_SECONDS, SPREAD
    figures["workload_seconds"] = 0.0 if env.cloud_load is None else env.cloud_load.seconds
    figures["draws_weights"] = env.preferences.low != env.preferences.high
    figures["max_new_tokens"], figures["context"] = meta.max_new_tokens, meta.context
    figures["first_exit"] = first.exit_index % len(meta.exit_layers)
    figures["first_length"], figures["first_margin"] = first.draft_length, first.exit_margin
    figures["said_after_the_end"] = next(iter(frozenset(meta.eos_ids)), 0)
    return figures
