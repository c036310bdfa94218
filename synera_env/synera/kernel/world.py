"""What a replayed world is made of, as arrays that compiled code reads: graphs, links, profiles, lens, and how they are shown.

Nothing of a graph is copied: node arrays are those of the (memory-mapped) set. What does not live here: the state of
answers (state.py) and what becomes of it (step.py).
"""

from __future__ import annotations

from collections.abc import Mapping
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
from synera_env.synera.replay import SyneraReplayEnv
from synera_env.synera.schema import HISTORY
from traces.synera.graph import GraphSet
from traces.synera.graph_check import EXITS, NODE_ARRAYS

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


class Graphs(NamedTuple):
    """All prompts' graphs, end to end, as `traces.synera.graph_check.NODE_ARRAYS` says; and the prompts."""

    first_node: NDArray[np.int64]
    """[prompts]: what is added to the places of its nodes."""
    root: NDArray[np.int64]
    """[prompts]: place of the prompt's own node; -1 where its graph, which grows, is not taken up."""
    score: NDArray[np.float32]
    exit_token: NDArray[np.int32]
    confidence: NDArray[np.float32]
    margin: NDArray[np.float32]
    entropy: NDArray[np.float32]
    runner_up: NDArray[np.int32]
    sketch: NDArray[np.uint16]
    """Half precision by its bits, as compiled code knows no halves."""
    llm_token: NDArray[np.int32]
    exit_child: NDArray[np.int32]
    llm_child: NDArray[np.int32]
    rejected: NDArray[np.float64]
    """[nodes, exits]: how likely the LLM rejects the token, where that was asked before; 0 elsewhere. Its pages take memory once
    they are written."""
    one_sketch: NDArray[np.float64]
    """[directions]: room for one."""
    prompt_tokens: NDArray[np.int64]
    """[prompts]: length."""
    prompt_bytes: NDArray[np.int64]
    """[prompts]: of its tokens as varints."""
    startable: NDArray[np.int64]
    exit_layers: NDArray[np.int64]
    eos: NDArray[np.int64]


READ = tuple(name for name in Graphs._fields if name in NODE_ARRAYS)
"""Arrays of nodes that compiled code reads."""


class Links(NamedTuple):
    """All link traces, end to end; see :meth:`traces.links.trace.LinkTrace.series`."""

    first: NDArray[np.int64]
    """[links + 1]: where a trace's samples begin; its bits passed begin as many places later as there are traces before it."""
    step_seconds: NDArray[np.float64]
    half_rtt_seconds: NDArray[np.float64]
    uplink: NDArray[np.float64]
    uplink_passed: NDArray[np.float64]
    downlink: NDArray[np.float64]
    downlink_passed: NDArray[np.float64]


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
    if recorded is env.graphs:
        first_node, root = arrays["node_offsets"][:-1].astype(np.int64), np.zeros(prompts, np.int64)
        rejected = np.zeros(arrays["exit_token"].shape)
    else:
        first_node, root = np.zeros(prompts, np.int64), np.full(prompts, -1)
        arrays, rejected = no_nodes(len(meta.exit_layers)), np.zeros((0, len(meta.exit_layers)))
    return Graphs(
        first_node=first_node,
        root=root,
        **node_arrays(arrays),
        rejected=rejected,
        one_sketch=np.zeros(SKETCH_SIZE),
        prompt_tokens=np.diff(offsets).astype(np.int64),
        prompt_bytes=np.diff(sizes[offsets]),
        startable=np.array(env.startable, np.int64),
        exit_layers=np.array(meta.exit_layers, np.int64),
        eos=np.array(meta.eos_ids, np.int64),
    )


def no_nodes(exits: int, room: int = 0) -> dict[str, NDArray[Any]]:
    """Return arrays of a graph, with room for nodes to come."""
    kinds = {name: NODE_ARRAYS[name] for name in READ}
    return {
        name: np.zeros((room, *(exits if n == EXITS else int(n) for n in tail)), kind) for name, (kind, tail) in kinds.items()
    }


def node_arrays(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the arrays of nodes that compiled code reads, as it reads them."""
    return {name: _frozen(arrays[name].view(np.uint16) if name == "sketch" else arrays[name]) for name in READ}


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, read-only as a mapped one is, so that compiled code is compiled for one kind."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def _links(env: SyneraReplayEnv) -> Links:
    series = [link.series() for link in env.links]
    laid = [np.concatenate([np.array(each[place], np.float64) for each in series]) for place in range(5)]
    first = np.cumsum([0, *(len(each[0]) for each in series)], dtype=np.int64)
    return Links(first, np.array([float(link.step_seconds) for link in env.links]), *laid)


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
