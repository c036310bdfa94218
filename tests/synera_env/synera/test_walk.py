"""What a replay remembers of recorded graphs: it changes nothing that is read, and holds nothing that may be given up."""

from __future__ import annotations

import gc
import weakref
from dataclasses import fields

import numpy as np

from runtime.clock import SimulatedClock
from runtime.synera.chunk import DraftToken
from runtime.synera.lens import Lens
from synera_env.synera.walk import ReplayDrafter, ReplayLens, Walk
from tests.support.graphs import DEVICE
from tests.support.growing import bare, growing
from traces import bundled
from traces.synera.graph import GraphSet
from traces.synera.growing import LivingGraph
from traces.synera.record import Models

GRAPHS = GraphSet.load(bundled.graphs("test"))


def first_token(graphs: GraphSet, graph: object, exit_index: int) -> DraftToken:
    """As a drafter of its own reads it."""
    drafter = ReplayDrafter(Walk(graph), graphs.meta.exit_layers, SimulatedClock(), DEVICE)  # type: ignore[arg-type]
    return drafter.next(exit_index, 1.0)


def test_a_token_that_is_read_again_is_the_one_of_its_node_and_exit() -> None:
    for index in (0, 1):
        for exit_index in range(2):
            graph = GRAPHS[index]
            once, again = (first_token(GRAPHS, graph, exit_index) for _ in range(2))
            assert again is once
            assert (once.token, once.exit_index) == (graph.exit_token[0, exit_index], exit_index)
            assert (once.confidence, once.margin) == (graph.confidence[0, exit_index], graph.margin[0, exit_index])
            assert (once.entropy, once.runner_up) == (graph.entropy[0, exit_index], graph.runner_up[0, exit_index])
            np.testing.assert_array_equal(once.sketch, graph.sketch[0, exit_index])


def test_two_sets_of_graphs_are_not_taken_for_each_other() -> None:
    arrays = dict(GRAPHS.arrays) | {"confidence": np.ones_like(GRAPHS.arrays["confidence"])}
    surer = GraphSet(GRAPHS.meta, arrays)
    assert first_token(GRAPHS, GRAPHS[0], 1).confidence < 1.0
    assert first_token(surer, surer[0], 1).confidence == 1.0


def test_a_graph_that_grows_is_not_held_once_it_is_given_up(akin_models: Models, akin_graphs: GraphSet) -> None:
    grown = growing(akin_models, bare(akin_graphs))
    graph: LivingGraph | None = grown[0]
    recorded, read = first_token(akin_graphs, akin_graphs[0], 1), first_token(akin_graphs, graph, 1)
    assert read is not recorded
    assert (read.token, read.runner_up, read.exit_index) == (recorded.token, recorded.runner_up, recorded.exit_index)
    held = weakref.ref(grown[0])
    del graph, grown
    gc.collect()
    assert held() is None


def test_the_lens_of_recorded_graphs_says_what_any_lens_says_and_looks_at_a_token_once() -> None:
    plain, replayed = (kind.from_tensors(GRAPHS.lens_tensors) for kind in (Lens, ReplayLens))
    drafter = ReplayDrafter(Walk(GRAPHS[2]), GRAPHS.meta.exit_layers, SimulatedClock(), DEVICE)
    chunk = [drafter.next(1, 0.9) for _ in range(4)]
    wanted = plain.importance_quantile(chunk)
    assert [replayed.importance_quantile(chunk) for _ in range(2)] == [wanted, wanted]
    looks = replayed._rejection_of.cache_info()  # type: ignore[attr-defined]
    assert (looks.misses, looks.hits) == (4, 4)
    other = DraftToken(**{f.name: getattr(chunk[0], f.name) for f in fields(DraftToken)} | {"confidence": 0.5})
    assert replayed.rejection_of(other) == plain.rejection_of(other) != plain.rejection_of(chunk[0])
