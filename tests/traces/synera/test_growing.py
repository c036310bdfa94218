"""Graphs that grow: what is run on demand is what the recorder would have written, within bounds of memory, and it is kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import SettingError
from runtime.synera.lens import Lens
from tests.support.graphs import RANDOM_NEW_TOKENS, text_score
from tests.support.growing import bare, growing, hold_against, said_at
from traces.errors import TraceError
from traces.synera import graph_file
from traces.synera.graph import GraphSet
from traces.synera.graph_check import node_bytes
from traces.synera.growing import GrowingGraphs
from traces.synera.growing_runs import PairRuns
from traces.synera.record_models import Models
from traces.synera.waves import side_by_side

WHOLE = {"closed": 1.0}


def walks(whole: GraphSet, grown: GrowingGraphs, most: int | None = None) -> list[Callable[[], int]]:
    """Tasks that hold every graph against the recorded one, and return how many nodes they met."""
    return [partial(lambda i: sum(1 for _ in hold_against(whole[i], grown[i], most)), i) for i in range(len(whole))]


def longest(graphs: GraphSet) -> int:
    return max(len(graph.prompt_tokens) for graph in graphs) + graphs.meta.max_new_tokens


def bytes_for(models: Models, tokens: int) -> int:
    return tokens * (models.slm.cached_bytes + models.llm.cached_bytes)


def along_the_slm(graphs: GrowingGraphs, index: int, tokens: int) -> None:
    """Walk as a device that keeps all it drafts, at its last exit."""
    graph, node = graphs[index], 0
    for _ in range(tokens):
        graph.know(node)
        node = graph.reach(node, int(graph.exit_token[node, -1]))


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("which", ["random", "akin"])
def test_a_graph_that_is_walked_everywhere_becomes_the_recorded_one(
    which: str, tiny_models: Models, tiny_graphs: GraphSet, akin_models: Models, akin_graphs: GraphSet, tmp_path: Path
) -> None:
    models, whole = (tiny_models, tiny_graphs) if which == "random" else (akin_models, akin_graphs)
    grown = growing(models, bare(whole))
    assert sum(side_by_side(walks(whole, grown))) == whole.nodes == grown.nodes
    inner = sum(int(np.isnan(graph.score).sum()) for graph in whole)
    assert grown.nodes_run == grown.runs.counts.nodes == inner - len(whole)
    assert grown.runs.counts.mean_wave > 2, "they go together"
    assert grown.runs.counts.prefix_tokens == sum(len(graph.prompt_tokens) for graph in whole), "each once"
    assert grown.known().nodes == whole.nodes
    grown.save(tmp_path / "grown.safetensors")
    saved = GraphSet.load(tmp_path / "grown.safetensors")
    assert saved.meta.coverage == WHOLE
    assert (saved.nodes, saved.meta.notes["grown_nodes"]) == (whole.nodes, whole.nodes - len(whole))
    assert saved.meta.texts == whole.meta.texts
    assert saved.meta.joined == whole.meta.joined
    for one, other in zip(whole, saved, strict=True):
        assert other.closed
        np.testing.assert_allclose(np.sort(one.confidence[:, 0]), np.sort(other.confidence[:, 0]), atol=1e-5)


def test_alone_or_side_by_side_the_same_is_found(akin_models: Models, akin_graphs: GraphSet) -> None:
    alone = growing(akin_models, bare(akin_graphs))
    met = [walk() for walk in walks(akin_graphs, alone, most=40)]
    assert met == [min(40, len(graph)) for graph in akin_graphs]
    assert alone.runs.counts.mean_wave == 1.0
    together = growing(akin_models, bare(akin_graphs))
    assert side_by_side(walks(akin_graphs, together, most=40)) == met
    assert together.nodes_run == alone.nodes_run
    assert together.runs.counts.waves < alone.runs.counts.waves / 3


def test_a_wrong_figure_would_be_found(akin_models: Models, akin_graphs: GraphSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guards the tests above: a row that sees one slot of another prefix is not let pass."""
    grown = growing(akin_models, bare(akin_graphs))
    run = grown.runs._tree.run

    def shifted(tokens: Any, slots: Any, paths: Any) -> Any:
        return run(
            tokens, slots, [np.concatenate([path[:1], path[:-2], path[-1:]]) if len(path) > 30 else path for path in paths]
        )

    monkeypatch.setattr(grown.runs._tree, "run", shifted)
    with pytest.raises(AssertionError):
        side_by_side(walks(akin_graphs, grown, most=40))


def test_a_token_that_nobody_says_leads_nowhere(tiny_models: Models, tiny_graphs: GraphSet) -> None:
    graph = growing(tiny_models, bare(tiny_graphs))[0]
    unsaid = next(token for token in range(100) if token not in said_at(tiny_graphs[0], 0))
    assert graph.reach(0, unsaid) == -1
    assert len(graph) == 1


def test_figures_do_not_depend_on_the_sets_that_share_the_models(akin_models: Models, akin_graphs: GraphSet) -> None:
    """Two sets with lenses of their own, in the same waves."""
    runs, lens = PairRuns(akin_models), Lens.from_tensors(akin_graphs.lens_tensors)
    turned = akin_graphs.with_lens(replace(lens, mean=lens.mean + 1).tensors())
    sets = [GrowingGraphs(bare(graphs), runs, text_score) for graphs in (akin_graphs, turned)]
    first, second = (graphs[1] for graphs in sets)

    def step(graph: Any) -> int:
        child: int = graph.reach(0, int(akin_graphs[1].exit_token[0, -1]))
        graph.know(child)
        return child

    one, other = side_by_side([partial(step, first), partial(step, second)])
    assert runs.counts.waves == 1
    node = akin_graphs[1].child(0, int(akin_graphs[1].exit_token[0, -1]))
    np.testing.assert_allclose(first.sketch[one].astype(float), akin_graphs[1].sketch[node].astype(float), atol=0.02)
    assert np.abs(first.sketch[one].astype(float) - second.sketch[other].astype(float)).max() > 0.1


# ---------------------------------------------------------------- bounds


@pytest.mark.parametrize("room", [1.0, 1.3, 3.0])
def test_caches_that_do_not_fit_are_made_again(akin_models: Models, akin_graphs: GraphSet, room: float) -> None:
    """With room for one prefix at a time, for less than two, and for some of the prompts."""
    tokens = int(longest(akin_graphs) * room)
    tight = growing(akin_models, bare(akin_graphs), cache_bytes=bytes_for(akin_models, tokens))
    side_by_side(walks(akin_graphs, tight, most=25))
    roomy = growing(akin_models, bare(akin_graphs))
    side_by_side(walks(akin_graphs, roomy, most=25))
    assert tight.runs.counts.prefix_tokens > 2 * roomy.runs.counts.prefix_tokens
    assert tight.runs._tree.nbytes == bytes_for(akin_models, tokens)


def test_a_graph_that_fills_the_pool_by_itself_gives_up_what_it_does_not_need(
    akin_models: Models, akin_graphs: GraphSet
) -> None:
    grown = growing(akin_models, bare(akin_graphs), cache_bytes=bytes_for(akin_models, longest(akin_graphs)))
    assert walks(akin_graphs, grown, most=120)[0]() > longest(akin_graphs)
    assert grown.runs.counts.prefix_tokens > 3 * len(akin_graphs[0].prompt_tokens)


def test_a_bound_that_holds_no_prefix_is_refused(akin_models: Models, akin_graphs: GraphSet) -> None:
    tokens = longest(akin_graphs)
    with pytest.raises(SettingError, match=rf"the longest prompt with its answer has {tokens}; give at least"):
        growing(akin_models, bare(akin_graphs), cache_bytes=bytes_for(akin_models, tokens) - 1)
    growing(akin_models, bare(akin_graphs), cache_bytes=bytes_for(akin_models, tokens))


@pytest.mark.parametrize("setting", [{"cache_bytes": 0}, {"node_limit": 0}])
def test_numbers_out_of_range_are_refused(setting: dict[str, int], tiny_models: Models, tiny_graphs: GraphSet) -> None:
    (name,) = setting
    with pytest.raises(SettingError, match=f"^{name}="):
        growing(tiny_models, tiny_graphs, **setting)


def test_graphs_go_back_to_their_seed_where_too_many_nodes_are_held(tiny_models: Models, tiny_graphs: GraphSet) -> None:
    limit = 150
    grown = growing(tiny_models, bare(tiny_graphs), node_limit=limit)
    under_way = grown[0]
    for index in range(len(grown)):
        sum(1 for _ in hold_against(tiny_graphs[index], grown[index], most=60))
    assert sum(map(len, grown._held.values())) <= max(limit, len(grown[5]))
    assert list(grown._held)[-1] == 5
    assert 0 not in grown._held
    assert grown.nodes <= len(tiny_graphs) + max(limit, len(grown[5]))
    # Whoever is in the middle of one goes on in it, and it says what it should.
    assert grown[0] is not under_way
    assert len(grown[0]) == 1
    sum(1 for _ in hold_against(tiny_graphs[0], under_way, most=90))


def test_what_a_node_takes(tiny_models: Models, tiny_graphs: GraphSet) -> None:
    graph = growing(tiny_models, bare(tiny_graphs))[0]
    arrays = [*graph.arrays(), "ran"]
    arrays.remove("prompt_tokens")
    assert sum(getattr(graph, name)[:1].nbytes for name in arrays) == node_bytes(exits=2) + 1 == 145


# ---------------------------------------------------------------- kept


def test_what_was_grown_is_taken_up_again_where_it_was_left(akin_models: Models, akin_graphs: GraphSet, tmp_path: Path) -> None:
    first = growing(akin_models, bare(akin_graphs))
    side_by_side(walks(akin_graphs, first, most=30))
    path = tmp_path / "grown.safetensors"
    first.save(path)
    saved = GraphSet.load(path)
    assert saved.meta.coverage == {"closed": np.mean([graph.closed for graph in saved])}
    assert saved.meta.coverage["closed"] < 1
    assert saved.meta.notes["grown_nodes"] == saved.nodes - len(saved)
    again = growing(akin_models, saved)
    side_by_side(walks(akin_graphs, again, most=30))
    assert again.runs.counts.waves == 0
    side_by_side(walks(akin_graphs, again))
    assert again.nodes == akin_graphs.nodes
    again.save(path)  # the file that it is a view of
    whole = GraphSet.load(path)
    assert whole.meta.coverage == WHOLE
    assert whole.meta.notes["grown_nodes"] == whole.nodes - len(whole)
    assert (whole.nodes, whole.meta.prompts) == (akin_graphs.nodes, akin_graphs.meta.prompts)


def test_graphs_that_nobody_asked_for_are_kept_as_they_were(tiny_models: Models, tiny_graphs: GraphSet, tmp_path: Path) -> None:
    grown = growing(tiny_models, tiny_graphs)
    grown.save(tmp_path / "same.safetensors")
    tiny_graphs.save(tmp_path / "seed.safetensors")
    same, seed = (graph_file.load(tmp_path / f"{name}.safetensors")[1] for name in ("same", "seed"))
    for name, array in seed.items():
        np.testing.assert_array_equal(same[name], array)


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tiny_models: Models, tiny_graphs: GraphSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "graphs.safetensors"
    grown = growing(tiny_models, bare(tiny_graphs))
    grown.save(path)
    before = path.read_bytes()
    along_the_slm(grown, 0, 3)

    def full(part: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(graph_file, "seal", full)
    with pytest.raises(OSError, match="no space"):
        grown.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["graphs.safetensors"]


def test_tokens_that_the_seed_never_said_are_shown_as_text(tiny_models: Models, tiny_graphs: GraphSet) -> None:
    tokens = tiny_graphs[0].exit_token[:5, 0].tolist()
    seed = bare(tiny_graphs)
    seed = GraphSet(replace(seed.meta, texts={}, joined=()), seed._arrays)
    assert seed.text(tokens).startswith("<")
    assert growing(tiny_models, seed).text(tokens) == tiny_graphs.text(tokens)


# ---------------------------------------------------------------- mistakes


def test_models_that_the_graphs_were_not_recorded_with_are_refused(
    tiny_models: Models, akin_models: Models, akin_graphs: GraphSet
) -> None:
    with pytest.raises(
        TraceError, match=rf"recorded with the SLM {akin_models.slm_fingerprint}, this one is .*--slm and --llm"
    ):
        growing(tiny_models, akin_graphs)
    with pytest.raises(TraceError, match="recorded with the LLM"):
        growing(replace(akin_models, llm_fingerprint="other"), akin_graphs)
    with pytest.raises(TraceError, match="recorded with the tokenizer"):
        growing(replace(akin_models, tokenizer_hash="other"), akin_graphs)


def test_a_score_that_is_none_is_the_scorers_mistake_and_nobody_waits_for_ever(
    tiny_models: Models, tiny_graphs: GraphSet
) -> None:
    grown = growing(tiny_models, bare(tiny_graphs), score=lambda prompt, answer: 2.0)
    tasks = [partial(along_the_slm, grown, 0, RANDOM_NEW_TOKENS), partial(along_the_slm, grown, 1, 2)]
    with pytest.raises(SettingError, match=r"the score of an answer to .*=2\.0"):
        side_by_side(tasks)
    along_the_slm(grown, 1, 3)
    assert grown[1].ran[:3].all()


def test_after_a_failure_of_the_models_nothing_is_taken_for_known(
    akin_models: Models, akin_graphs: GraphSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown = growing(akin_models, bare(akin_graphs))
    side_by_side(walks(akin_graphs, grown, most=10))
    with monkeypatch.context() as patched:

        def fails(*_: object) -> None:
            raise MemoryError("planted")

        patched.setattr(grown.runs._tree, "run", fails)
        with pytest.raises(MemoryError, match="planted"):
            side_by_side(walks(akin_graphs, grown, most=20))
    side_by_side(walks(akin_graphs, grown, most=40))
