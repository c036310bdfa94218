"""The vector environment over graphs that grow: decisions a second while new nodes are common, and while they are rare.

Part of the area `env`. What does not live here: what a training over such graphs costs (growth.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from scripts.benchmarks.harness import Figure, Setting
from synera_env import SyneraReplayEnv
from synera_env.synera.kernel.world import KNOBS
from synera_env.synera.schema import THRESHOLD, synera_schema
from traces import bundled
from traces.synera.graph import GraphSet
from traces.synera.graph_check import NODE_ARRAYS
from traces.synera.growing import GrowingGraphs
from traces.synera.growing_runs import PairRuns
from traces.synera.record_models import Models
from traces.tasks.scoring import scorer_of

ROWS = 256
_PROMPTS = 32
_STEPS = 200
_STEPS_A_REPETITION = 10


def measure(setting: Setting) -> Iterator[Figure]:
    """Step random knobs over prompts of which nothing was recorded but the first node; and the `threshold` rule, whose answers hardly
    leave what was recorded, over the bundled test graphs.
    """
    recorded, steps = GraphSet.load(bundled.graphs("test")), min(_STEPS, _STEPS_A_REPETITION * setting.repetitions)
    runs = PairRuns(Models.load(setting.pair / "slm", setting.pair / "llm"))
    score = scorer_of(recorded.meta)
    drawn = np.random.default_rng(0).uniform(-1, 1, (steps, ROWS, len(KNOBS))).astype(np.float32)
    yield _rate("common", GrowingGraphs(_bare(recorded), runs, score), drawn, "random knobs")
    threshold = synera_schema(len(recorded.meta.exit_layers)).action(THRESHOLD)
    told = np.broadcast_to(threshold, drawn.shape)
    yield _rate("rare", GrowingGraphs(recorded, runs, score), told, "the rule threshold", warm=3 * steps)


def _rate(name: str, graphs: GrowingGraphs, actions: NDArray[np.float32], who: str, warm: int = 0) -> Figure:
    env = SyneraReplayEnv(graphs, bundled.links("test")).vector(ROWS)
    env.reset(seed=0)
    for step in range(warm):
        env.step(actions[step % len(actions)])
    before, began = graphs.growth, perf_counter()
    for each in actions:
        env.step(each)
    seconds, after, decisions = perf_counter() - began, graphs.growth, len(actions) * ROWS
    run, waves = after.nodes_run - before.nodes_run, max(1, after.waves - before.waves)
    peer = (
        f"{ROWS} copies, {who}: {run / decisions:.4f} new nodes a decision, {run / waves:.1f} a wave; "
        f"{(after.model_seconds - before.model_seconds) / seconds:.0%} of the time in models"
    )
    return Figure(f"vector over growing graphs, new nodes {name}", decisions / seconds, "decisions/s", None, "higher", peer)


def _bare(graphs: GraphSet) -> GraphSet:
    """Its first prompts, each with its own node alone."""
    cut = []
    for graph, _ in zip(graphs, range(_PROMPTS), strict=False):
        arrays = {name: getattr(graph, name)[:1].copy() for name in NODE_ARRAYS}
        arrays["exit_child"][:] = arrays["llm_child"][:] = -1
        cut.append(arrays | {"prompt_tokens": graph.prompt_tokens})
    meta, of_first = graphs.meta, slice(0, _PROMPTS)
    parts = {name: getattr(meta, name)[of_first] for name in ("prompts", "kinds", "references")}
    return GraphSet.build(replace(meta, coverage={"closed": 0.0}, **parts), cut, graphs.lens_tensors)
