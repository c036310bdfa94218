"""A graph to which nodes are added: whatever the order, it is a graph that the format takes, and nothing in it is lost."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.synera.lens import Lens
from traces.synera.graph import GraphMeta, GraphSet
from traces.synera.graph_check import NODE_ARRAYS
from traces.synera.growing_graph import GrowingGraph

EXITS, MOST = 2, 5
EOS = 0
PROMPT = [7, 8]
Prefix = tuple[int, ...]


def said(prefix: Prefix, source: int) -> int:
    """A language of four tokens, another for each source; 0 ends an answer."""
    return zlib.crc32(bytes([*prefix, 100 + source])) % 4


def figures(prefix: Prefix) -> dict[str, object]:
    """What is found at a prefix, different at each."""
    confidence = np.array([(zlib.crc32(bytes([*prefix, 200 + e])) % 1000) / 1000 for e in range(EXITS)], np.float32)
    return {
        "exit_token": np.array([said(prefix, e) for e in range(EXITS)]),
        "confidence": confidence,
        "margin": confidence / 2,
        "entropy": 1 - confidence,
        "runner_up": np.array([3, 3]),
        "sketch": np.tile(confidence[:, None], (1, 16)),
        "llm_probability": confidence / 3,
        "llm_token": said(prefix, EXITS),
    }


def ends(prefix: Prefix) -> bool:
    return len(prefix) == MOST or (len(prefix) > 0 and prefix[-1] == EOS)


def grow(graph: GrowingGraph, places: dict[Prefix, int], draws: list[int]) -> None:
    """Run and step as the draws say; `places` holds the node of each prefix."""
    for draw in draws:
        prefixes = list(places)
        prefix = prefixes[draw % len(prefixes)]
        node = places[prefix]
        if ends(prefix):
            graph.end(node, 0.5)
        elif not graph.known(node):
            graph.write(node, figures(prefix))
        else:
            token = said(prefix, draw // 7 % (EXITS + 1))
            child = graph.step(node, token)
            assert places.setdefault((*prefix, token), child) == child, "one node a prefix"


def as_set(graph: GrowingGraph) -> GraphSet:
    meta = GraphMeta(
        exit_layers=(1, 2),
        layers=2,
        eos_ids=(EOS,),
        max_new_tokens=MOST,
        context=16,
        slm_fingerprint="s",
        llm_fingerprint="l",
        tokenizer_hash="t",
        split="train",
        prompts=(graph.prompt,),
        kinds=(graph.kind,),
        coverage={"closed": 0.0},
    )
    return GraphSet.build(meta, [graph.arrays()], Lens.neutral(EXITS, 4).tensors())


def begun() -> tuple[GrowingGraph, dict[Prefix, int]]:
    graph = GrowingGraph("say", "test", PROMPT, EXITS)
    graph.write(0, figures(()))
    return graph, {(): 0}


draws = st.lists(st.integers(0, 10**6), max_size=120)


@given(draws)
def test_whatever_was_added_it_is_a_graph_of_the_format_with_all_that_is_known(draws: list[int]) -> None:
    graph, places = begun()
    grow(graph, places, draws)
    recorded = as_set(graph)[0]  # checks every link
    known = {prefix for prefix, node in places.items() if graph.known(node)}
    assert len(recorded) == len(known)
    for prefix in known:
        node = 0
        for at, token in enumerate(prefix):
            node = recorded.child(node, token)
            assert node > 0, prefix[: at + 1]
        if ends(prefix):
            assert recorded.score[node] == 0.5
        else:
            for name, value in figures(prefix).items():
                np.testing.assert_array_equal(getattr(recorded, name)[node], np.asarray(value, getattr(recorded, name).dtype))
    for prefix, node in places.items():
        assert graph.answer(node) == list(prefix)
        assert graph.path(node) == [places[prefix[:length]] for length in range(len(prefix) + 1)]


@given(draws, draws)
def test_a_recorded_graph_is_taken_up_as_it_is_and_grows_as_if_it_had_never_been_put_down(
    first: list[int], then: list[int]
) -> None:
    graph, places = begun()
    grow(graph, places, first)
    recorded = as_set(graph)[0]
    again = GrowingGraph.of(recorded)
    for name in (*NODE_ARRAYS, "prompt_tokens"):
        np.testing.assert_array_equal(again.arrays()[name], getattr(recorded, name))
    kept = {}
    for prefix in places:
        node = 0
        for token in prefix:
            node = again.child(node, token) if node >= 0 else -1
        if node >= 0:
            kept[prefix] = node
    assert set(kept) == {prefix for prefix, node in places.items() if graph.known(node)}
    grow(again, kept, then)
    grown = as_set(again)[0]
    assert {tuple(again.answer(n)) for n in range(len(again))} >= {tuple(graph.answer(n)) for n in kept.values() if n < 1}
    assert len(grown) == sum(again.known(node) for node in kept.values())


def test_a_token_that_nobody_says_leads_nowhere() -> None:
    graph, _ = begun()
    unsaid = ({0, 1, 2, 3} - {said((), source) for source in range(EXITS + 1)}).pop()
    with pytest.raises(ValueError, match=f"nobody says token {unsaid} at node 0"):
        graph.step(0, unsaid)
    assert (len(graph), graph.child(0, unsaid)) == (1, -1)


def test_sources_that_say_the_same_lead_to_the_same_node() -> None:
    graph, _ = begun()
    graph.write(0, figures(()) | {"exit_token": np.array([2, 1]), "llm_token": 1})
    child = graph.step(0, 1)
    assert (graph.exit_child[0].tolist(), graph.llm_child[0], graph.step(0, 1)) == ([-1, child], child, child)
