"""Which nodes a batch keeps: against the whole graph worked out prefix by prefix, for any budget and any size of a wave."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.synera.lens import Lens
from tests.support.graphs import AKIN_NEW_TOKENS, RANDOM_NEW_TOKENS, last_row, text_score, tiny_prompts
from traces.synera import record, record_batch, record_models
from traces.synera.graph import GraphSet
from traces.synera.record import Recorder
from traces.synera.record_batch import Batch, cached_bytes
from traces.synera.record_habits import Mixture
from traces.synera.record_models import Models
from traces.tasks.splits import Prompt

Node = tuple[str, tuple[int, ...]]
"""A prompt and what was said after it."""


@pytest.fixture
def wasteful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waves that are large for their budget, so that nodes are run and given up."""
    monkeypatch.setattr(record_batch, "_WAVES", 1)
    monkeypatch.setattr(record_models, "_WAVE", 25)


def expanded(models: Models, nodes: int, max_new_tokens: int, prompts: list[Prompt] | None = None) -> Batch:
    neutral = Lens.neutral(len(models.slm.config.exit_layers), models.slm.config.hidden)
    batch = Batch(models, neutral, prompts or tiny_prompts()[:3], max_new_tokens, nodes)
    batch.expand()
    return batch


def kept(batch: Batch) -> set[Node]:
    """The nodes that were run and are kept."""
    found = set()
    for graph in batch.graphs:
        nodes = np.flatnonzero(graph.ran[: len(graph)])
        found |= {(graph.prompt, tuple(answer)) for answer in graph.answers(nodes)}
    return found


@pytest.fixture(scope="module")
def likely(akin_graphs: GraphSet) -> dict[Node, float]:
    """How likely each inner node of the akin pair's first graphs is, worked out node by node."""
    found: dict[Node, float] = {}
    prompts = {p.text for p in tiny_prompts()[:3]}
    for graph in (g for g in akin_graphs if g.prompt in prompts):
        mixture = Mixture(graph.exit_token.shape[1])
        mass, answers = {0: mixture.start}, {0: ()}
        for node in np.flatnonzero(np.isnan(graph.score)).tolist():
            found[graph.prompt, answers[node]] = mass[node].sum() * 0.999 ** len(answers[node])
            one = slice(node, node + 1)
            told = graph.exit_token[one], graph.llm_token[one], graph.confidence[one], graph.margin[one]
            children = mixture.children(mass[node][None], *told)[0]
            for source, child in enumerate([*graph.exit_child[node].tolist(), int(graph.llm_child[node])]):
                mass[child] = mass.get(child, 0) + children[source]
                answers[child] = (*answers[node], int(graph.token[child]))
    return found


# ---------------------------------------------------------------- closed


def test_a_closed_graph_is_what_prefixes_run_one_by_one_give(akin_models: Models) -> None:
    """With a plain decoder and no tree: every prefix that follows from tokens that somebody says."""
    prompts, length = tiny_prompts()[:2], 4
    batch = expanded(akin_models, 10_000, length, prompts)
    exits = akin_models.slm.config.exit_layers
    for graph, prompt in zip(batch.graphs, prompts, strict=True):
        wanted, todo, tokens = {}, [()], akin_models.tokenizer.encode(prompt.text).ids
        while todo:
            said = todo.pop()
            rows = [last_row(akin_models.slm, [*tokens, *said], stop=layer) for layer in exits]
            judged = last_row(akin_models.llm, [*tokens, *said])
            wanted[said] = tuple(int(row.argmax()) for row in (*rows, judged))
            for token in set(wanted[said]):
                if token not in akin_models.eos_ids and len(said) + 1 < length:
                    todo.append((*said, token))
        nodes = np.flatnonzero(graph.ran[: len(graph)])
        found = {
            tuple(answer): (*graph.exit_token[node].tolist(), int(graph.llm_token[node]))
            for node, answer in zip(nodes, graph.answers(nodes), strict=True)
        }
        assert found == wanted
        ends = {tuple(answer) for answer in graph.answers(batch.ends(graph))}
        assert ends == {
            (*said, token)
            for said, tokens_said in wanted.items()
            for token in tokens_said
            if token in akin_models.eos_ids or len(said) + 1 == length
        }


# ---------------------------------------------------------------- budget


@settings(max_examples=8)
@given(nodes=st.integers(3, 150))
def test_the_likeliest_nodes_are_kept(akin_models: Models, likely: dict[Node, float], nodes: int) -> None:
    """As many as the budget allows, none of them less likely than one that is left out."""
    found = kept(expanded(akin_models, nodes, AKIN_NEW_TOKENS))
    assert len(found) == min(nodes, len(likely))
    least = min(likely[node] for node in found)
    most_left_out = max((value for node, value in likely.items() if node not in found), default=0.0)
    assert least >= most_left_out * (1 - 1e-4)  # figures differ by rounding between a large wave and a small one


@settings(max_examples=8)
@given(nodes=st.lists(st.integers(3, 400), min_size=2, max_size=2, unique=True))
def test_a_larger_budget_keeps_the_same_nodes_and_more(tiny_models: Models, nodes: list[int]) -> None:
    smaller, larger = (kept(expanded(tiny_models, n, RANDOM_NEW_TOKENS)) for n in sorted(nodes))
    assert smaller < larger
    assert (len(smaller), len(larger)) == tuple(sorted(nodes))


@pytest.mark.parametrize("rows", [1, 50, 400])
def test_the_size_of_a_wave_changes_nothing(tiny_models: Models, monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    small = kept(expanded(tiny_models, 200, RANDOM_NEW_TOKENS))
    monkeypatch.setattr(record_models, "_WAVE", rows)
    monkeypatch.setattr(record_batch, "_WAVES", 1)
    assert kept(expanded(tiny_models, 200, RANDOM_NEW_TOKENS)) == small


def test_the_least_budget_keeps_the_prompts_own_nodes(tiny_models: Models) -> None:
    assert kept(expanded(tiny_models, 3, RANDOM_NEW_TOKENS)) == {(p.text, ()) for p in tiny_prompts()[:3]}


@pytest.mark.usefixtures("wasteful")
def test_answers_end_only_after_nodes_that_are_kept(akin_models: Models) -> None:
    batch = expanded(akin_models, 100, AKIN_NEW_TOKENS)
    assert sum(map(len, batch._ran)) > 100, "some were run and given up"
    for graph in batch.graphs:
        ends = batch.ends(graph)
        assert graph.ran[graph.parent[ends]].all()
        graph.score[ends] = 0.5
        arrays = graph.arrays()
        assert np.isnan(arrays["score"]).sum() == graph.ran.sum()
        assert (arrays["score"] == 0.5).sum() == len(ends)


# ---------------------------------------------------------------- memory


@pytest.mark.usefixtures("wasteful")
def test_caches_are_no_larger_than_stated_whatever_is_run(akin_models: Models) -> None:
    batch = expanded(akin_models, 100, AKIN_NEW_TOKENS)
    assert sum(map(len, batch._ran)) > 100 + 25, "slots were given back and used again"
    tokens = sum(len(akin_models.encode(p.text, AKIN_NEW_TOKENS)) for p in tiny_prompts()[:3])
    assert 0 < batch.cached_bytes <= cached_bytes(akin_models, tokens, 100)


@pytest.mark.usefixtures("wasteful")
def test_a_slot_that_is_used_again_changes_no_figure(akin_models: Models, akin_graphs: GraphSet) -> None:
    whole = {graph.prompt: graph for graph in akin_graphs}
    for graph in expanded(akin_models, 100, AKIN_NEW_TOKENS).graphs:
        other = whole[graph.prompt]
        for node in np.flatnonzero(graph.ran[: len(graph)]):
            twin = 0
            for token in graph.answer(int(node)):
                twin = other.child(twin, token)
            np.testing.assert_allclose(graph.confidence[node], other.confidence[twin], atol=1e-5)
            np.testing.assert_allclose(graph.llm_probability[node], other.llm_probability[twin], atol=1e-5)
            np.testing.assert_allclose(graph.entropy[node], other.entropy[twin], atol=1e-4)


@pytest.mark.parametrize(("limit", "workers"), [(2**30, 1), (2**22, 1), (2**22, 3), (2**16, 1)])
def test_as_many_prompts_go_together_as_the_caches_allow(
    tiny_models: Models, monkeypatch: pytest.MonkeyPatch, limit: int, workers: int
) -> None:
    monkeypatch.setattr(record, "_CACHE_BYTES", limit)
    size = Recorder(tiny_models, text_score, RANDOM_NEW_TOKENS, 100, workers=workers).batch_size(20)
    assert size == {2**30: 32, 2**16: 1}.get(limit, size)
    assert size == 1 or cached_bytes(tiny_models, size * 20, size * 100) <= limit // workers
    assert size == 32 or cached_bytes(tiny_models, (size + 1) * 20, (size + 1) * 100) > limit // workers


# ---------------------------------------------------------------- workers


def test_batches_side_by_side_give_what_one_after_the_other_gives(akin_models: Models, akin_graphs: GraphSet) -> None:
    lens = Lens.from_tensors(akin_graphs.lens_tensors)
    made = []
    for workers in (1, 3):
        recorder = Recorder(akin_models, text_score, AKIN_NEW_TOKENS, 60, lens, workers=workers)
        *_, graphs = recorder.record(tiny_prompts(), "train", batch=2)
        assert isinstance(graphs, GraphSet)
        made.append(graphs)
    for name, values in made[0]._arrays.items():
        np.testing.assert_array_equal(values, made[1]._arrays[name], err_msg=name)
