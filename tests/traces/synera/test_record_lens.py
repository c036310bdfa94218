"""What the lens is fitted on: what models feel along their own answers; planted rejections are found, and chunks that are met
are as important as the table says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from runtime.synera.lens import Lens, chunk_importance
from tests.support.graphs import RANDOM_NEW_TOKENS, record_tiny, text_score, tiny_prompts
from traces.synera import record, record_lens
from traces.synera.graph import GraphSet
from traces.synera.graph_check import NODE_ARRAYS
from traces.synera.laid import Laid
from traces.synera.record import Recorder
from traces.synera.record_batch import Batch, cached_bytes
from traces.synera.record_lens import chunks, clues_of, fit_directions, fit_importance
from traces.synera.record_models import Models


def changed(graphs: GraphSet, change: Any) -> GraphSet:
    """The same graphs, each with its arrays changed."""
    per_graph = []
    for graph in graphs:
        arrays = {name: np.array(getattr(graph, name)) for name in NODE_ARRAYS}
        change(arrays)
        per_graph.append(arrays | {"prompt_tokens": graph.prompt_tokens})
    return GraphSet.build(graphs.meta, per_graph, graphs.lens_tensors)


def met(laid: Laid, length: int, seed: int = 9) -> list[NDArray[np.int64]]:
    """The nodes of each chunk of twenty walks a graph."""
    found = chunks(laid, np.repeat(laid.roots, 20), length, np.random.default_rng(seed))
    return [nodes[nodes >= 0] for step in found for nodes in step]


def importance(lens: Lens, laid: Laid, chunk: NDArray[np.int64]) -> float:
    return chunk_importance(lens.rejected(-1, clues_of(laid)[chunk, -1]))


def rejections(laid: Laid) -> NDArray[np.bool_]:
    """[nodes, exits]."""
    return laid.of("exit_token") != laid.of("llm_token")[:, None]


# ---------------------------------------------------------------- directions


def test_directions_are_those_of_the_states_at_the_likeliest_nodes(akin_models: Models) -> None:
    prompts, slm = tiny_prompts()[:3], akin_models.slm
    lens = fit_directions(akin_models, prompts, 8, 60, len(prompts))
    batch = Batch(akin_models, lens, prompts, 8, 60)
    states: list[list[NDArray[np.float32]]] = [[] for _ in slm.config.exit_layers]
    for graph in batch.expand():
        for answer in graph.answers(np.flatnonzero(graph.ran[: len(graph)])):
            whole = torch.tensor([*graph.prompt_tokens.tolist(), *answer])
            for at, layer in zip(states, slm.config.exit_layers, strict=True):
                found = slm.run(slm.embed(whole), torch.arange(len(whole)), slm.new_cache(), 0, layer)
                at.append(found[-1].numpy())
    assert len(states[0]) == 60
    wanted = Lens.of_states([np.stack(at) for at in states])
    np.testing.assert_allclose(lens.mean, wanted.mean, atol=0.05)
    for e, at in enumerate(states):
        got, want = (each.sketch(np.stack(at), e).astype(float) for each in (lens, wanted))
        assert got.std(0) == pytest.approx(1, abs=0.2)
        # Each direction may come out with its sign turned, and a few nodes that were run are not kept.
        np.testing.assert_allclose(np.abs(got[:, :3]).mean(0), np.abs(want[:, :3]).mean(0), atol=0.15)
    assert batch.hidden == []


def test_directions_need_no_more_than_one_node(tiny_models: Models) -> None:
    lens = fit_directions(tiny_models, tiny_prompts()[:1], 3, 1, 1)
    assert np.isfinite(lens.directions).all()
    assert not lens.directions.any(), "one state differs from its mean in no direction"


@pytest.mark.parametrize(("budget", "prompts", "nodes"), [(1, 2, 2), (80, 6, 30), (100_000, 6, 4096)])
def test_a_part_of_the_budget_goes_into_directions(
    tiny_models: Models, monkeypatch: pytest.MonkeyPatch, budget: int, prompts: int, nodes: int
) -> None:
    asked = []

    def fitted(models: Models, some: Any, max_new_tokens: int, nodes: int, together: int) -> Lens:
        asked.append((len(some), max_new_tokens, nodes))
        return Lens.neutral(2, 32)

    monkeypatch.setattr(record, "fit_directions", fitted)
    [*Recorder(tiny_models, text_score, 2, budget).record(tiny_prompts()[:prompts], "train")]
    assert asked == [(prompts, 2, nodes)]


def test_directions_are_fitted_in_caches_no_larger_than_those_of_a_batch(
    tiny_models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is short prompts are recorded one by one, and so they are for the lens."""
    made = list[int]()

    def watched(*given: Any) -> Batch:
        batch = Batch(*given)
        made.append(batch.cached_bytes)
        return batch

    monkeypatch.setattr(record, "_CACHE_BYTES", 1)
    monkeypatch.setattr(record_lens, "Batch", watched)
    [*Recorder(tiny_models, text_score, 6, 40).record(tiny_prompts(), "train", batch=1)]
    longest = max(len(tiny_models.encode(prompt.text, 6)) for prompt in tiny_prompts())
    assert len(made) == len(tiny_prompts())
    assert max(made) <= cached_bytes(tiny_models, longest, 40)


# ---------------------------------------------------------------- importance


def test_what_tells_a_rejection_is_found_wherever_it_lies(akin_graphs: GraphSet) -> None:
    def plant(arrays: dict[str, NDArray[Any]]) -> None:
        arrays["sketch"][:, :, 7] = np.where(arrays["exit_token"] != arrays["llm_token"][:, None], 2, -2)

    planted = changed(akin_graphs, plant)
    lens, laid = fit_importance(Lens.from_tensors(akin_graphs.lens_tensors), planted), Laid(planted)
    assert (np.abs(lens.rejection).argmax(1) == 5 + 7).all()
    rejected = rejections(laid)[:, -1]
    raw = {kind: [importance(lens, laid, n) for n in met(laid, 3) if rejected[n].any() == kind] for kind in (True, False)}
    assert min(raw[True]) > max(raw[False])


def test_rejections_are_as_frequent_as_they_are_held_for(akin_graphs: GraphSet) -> None:
    lens, laid = Lens.from_tensors(akin_graphs.lens_tensors), Laid(akin_graphs)
    nodes = np.concatenate(met(laid, 4))
    for exit_index in (0, 1):
        held, seen = lens.rejected(exit_index, clues_of(laid)[nodes, exit_index]), rejections(laid)[nodes, exit_index]
        assert held.mean() == pytest.approx(seen.mean(), abs=0.05)
        assert 0 < seen.mean() < 1


@pytest.mark.parametrize("length", [1, 3, 4])
def test_a_quantile_is_the_share_of_chunks_that_are_less_important(akin_graphs: GraphSet, length: int) -> None:
    lens, laid = Lens.from_tensors(akin_graphs.lens_tensors), Laid(akin_graphs)
    raw = np.array([importance(lens, laid, n) for n in met(laid, length) if len(n) == length])
    for share in (0.25, 0.5, 0.75):
        assert (raw < lens.importance[length, round(100 * share)]).mean() == pytest.approx(share, abs=0.12)


def test_a_length_that_no_answer_has_is_unknown(tiny_graphs: GraphSet) -> None:
    """What an answer's end cut short does not count for it."""
    table = Lens.from_tensors(tiny_graphs.lens_tensors).importance
    assert [length for length in range(9) if table[length].any()] == [1, 2, 3, 4, 5, RANDOM_NEW_TOKENS]


def test_chunks_are_those_of_a_session(akin_graphs: GraphSet) -> None:
    """As long as asked for, but at an answer's end; each begins where the one before was kept or corrected."""
    lengths, corrections = set(), 0
    for graph in akin_graphs:
        laid, rng = Laid([graph]), np.random.default_rng(1)
        for _ in range(5):
            found = [nodes[0][nodes[0] >= 0] for nodes in chunks(laid, laid.roots, 3, rng)]
            assert found[0][0] == 0
            for nodes, after in zip(found, [*(c[0] for c in found[1:]), None], strict=True):
                lengths.add(len(nodes))
                assert np.array_equal(graph.exit_child[nodes[:-1], -1], nodes[1:])
                kept, different = graph.exit_child[nodes[-1], -1], nodes[graph.exit_token[nodes, -1] != graph.llm_token[nodes]]
                corrected = graph.llm_child[different[0]] if len(different) else graph.llm_child[kept]
                assert after is None or after in (kept, corrected)
                corrections += after is not None and after == corrected
                assert len(nodes) == 3 or not np.isnan(graph.score[kept])
    assert 3 in lengths
    assert corrections > 0


def test_where_nothing_was_recorded_a_walk_ends(tiny_models: Models) -> None:
    graphs = record_tiny(tiny_models, RANDOM_NEW_TOKENS, node_budget=5)
    assert not any(graph.closed for graph in graphs)
    lens = fit_importance(Lens.from_tensors(graphs.lens_tensors), graphs)
    assert np.isfinite(lens.rejection).all()
    assert np.abs(lens.rejection).max() > 0
    assert (np.diff(lens.importance) >= 0).all()


@pytest.mark.parametrize("agree", [True, False])
def test_an_llm_that_always_or_never_agrees_leaves_finite_weights(akin_graphs: GraphSet, agree: bool) -> None:
    def plant(arrays: dict[str, NDArray[Any]]) -> None:
        arrays["llm_child"][:] = -1
        arrays["llm_token"][:] = arrays["exit_token"][:, 0] if agree else 60_000
        arrays["exit_child"][:, 1:], arrays["exit_token"][:, 1:] = arrays["exit_child"][:, :1], arrays["exit_token"][:, :1]

    planted = changed(akin_graphs, plant)
    lens, laid = fit_importance(Lens.from_tensors(akin_graphs.lens_tensors), planted), Laid(planted)
    held = lens.rejected(-1, clues_of(laid)[np.concatenate(met(laid, 4)), -1])
    assert np.isfinite(lens.rejection).all()
    assert (held < 0.2).all() if agree else (held > 0.8).all()


def test_directions_do_not_depend_on_the_workers(tiny_models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are fitted before these begin, so the room of all of them is theirs."""
    longest = max(len(tiny_models.encode(prompt.text, 6)) for prompt in tiny_prompts())
    monkeypatch.setattr(record, "_CACHE_BYTES", cached_bytes(tiny_models, 6 * longest, 6 * 40))
    lenses = []
    for workers in (1, 6):
        recorder = Recorder(tiny_models, text_score, 6, 40, workers=workers)
        *_, graphs = recorder.record(tiny_prompts(), "train", batch=1)
        assert isinstance(graphs, GraphSet)
        lenses.append(Lens.from_tensors(graphs.lens_tensors))
    assert lenses[0].fingerprint == lenses[1].fingerprint
