"""The recorder on tiny pairs: every figure of a node against a fresh run of the models on that node's prefix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from runtime.errors import CheckpointError, ContextOverflowError, SettingError
from runtime.model.placement import Placement
from runtime.synera.lens import Lens
from synera_env.synera.replay import SyneraReplayEnv
from tests.support.graphs import (
    AKIN_NEW_TOKENS,
    CLOUD,
    DEVICE,
    RANDOM_NEW_TOKENS,
    last_row,
    record_tiny,
    text_score,
    tiny_prompts,
)
from tests.support.placements import OTHER_PLACEMENTS, named
from traces.links.generators import constant_link
from traces.synera.coverage import coverage
from traces.synera.graph import Graph, GraphSet
from traces.synera.record import Recorder
from traces.synera.record_lens import fit_importance
from traces.synera.record_models import Models, greedy_answers
from traces.tasks.splits import Prompt

SMALL_BUDGET = 60
COVERED = {"closed": 1.0, "random": 1.0, "random_steps": 1.0, "never": 1.0, "always": 1.0}


@pytest.fixture(scope="module")
def open_graphs(tiny_models: Models) -> GraphSet:
    """Graphs that a node budget cut short."""
    return record_tiny(tiny_models, RANDOM_NEW_TOKENS, SMALL_BUDGET)


@pytest.fixture(params=["random", "akin"])
def recorded(
    request: pytest.FixtureRequest, tiny_models: Models, tiny_graphs: GraphSet, akin_models: Models, akin_graphs: GraphSet
) -> tuple[Models, GraphSet]:
    return (tiny_models, tiny_graphs) if request.param == "random" else (akin_models, akin_graphs)


def answer_of(graph: Graph, node: int) -> list[int]:
    tokens: list[int] = []
    while node > 0:
        tokens.append(int(graph.token[node]))
        node = int(graph.parent[node])
    return tokens[::-1]


def inner_nodes(graph: Graph) -> np.ndarray:
    return np.flatnonzero(np.isnan(graph.score))


# ---------------------------------------------------------------- figures


def check_node(models: Models, graph: Graph, node: int) -> None:
    """Compare a node with one sequence run afresh."""
    prefix = [*graph.prompt_tokens.tolist(), *answer_of(graph, node)]
    exits = models.slm.config.exit_layers
    judged = last_row(models.llm, prefix)
    assert graph.llm_token[node] == judged.argmax()
    for e, layer in enumerate(exits):
        said = last_row(models.slm, prefix, stop=layer)
        first, second = np.argsort(said)[::-1][:2]
        assert (graph.exit_token[node, e], graph.runner_up[node, e]) == (first, second)
        assert graph.confidence[node, e] == pytest.approx(said[first], abs=1e-5)
        assert graph.margin[node, e] == pytest.approx(said[first] - said[second], abs=1e-5)
        assert graph.entropy[node, e] == pytest.approx(-(said * np.log(np.maximum(said, 1e-30))).sum(), abs=1e-4)
        assert graph.llm_probability[node, e] == pytest.approx(judged[first], abs=1e-5)


def test_the_figures_of_a_node_are_those_of_a_fresh_run(recorded: tuple[Models, GraphSet]) -> None:
    models, graphs = recorded
    rng = np.random.default_rng(0)
    for graph in graphs:
        inner = inner_nodes(graph)
        for node in {0, int(inner[-1]), *(int(n) for n in rng.choice(inner, 8))}:
            check_node(models, graph, node)


def test_the_sketch_is_the_lens_s_view_of_the_hidden_state(akin_models: Models, akin_graphs: GraphSet) -> None:
    import torch

    lens, slm, graph = Lens.from_tensors(akin_graphs.lens_tensors), akin_models.slm, akin_graphs[1]
    for node in (0, int(inner_nodes(graph)[-1])):
        prefix = [*graph.prompt_tokens.tolist(), *answer_of(graph, node)]
        for e, layer in enumerate(slm.config.exit_layers):
            states = slm.run(slm.embed(torch.tensor(prefix)), torch.arange(len(prefix)), slm.new_cache(), 0, layer)
            np.testing.assert_allclose(graph.sketch[node, e], lens.sketch(states[-1].numpy(), e), atol=0.01)
    states = np.concatenate([g.sketch[inner_nodes(g)] for g in akin_graphs]).astype(float)
    assert states.std(0).max() < 3, "scaled to about one deviation"
    assert states.std(0).min() > 0


def test_confidence_margin_and_probability_are_in_range(recorded: tuple[Models, GraphSet]) -> None:
    for graph in recorded[1]:
        inner = inner_nodes(graph)
        for name in ("confidence", "margin", "llm_probability"):
            values = getattr(graph, name)[inner]
            assert (values >= 0).all(), name
            assert (values <= 1 + 1e-6).all(), name
        assert (graph.margin[inner] <= graph.confidence[inner]).all()
        assert (graph.entropy[inner] >= 0).all()


# ---------------------------------------------------------------- shape


def test_parents_children_and_depths_agree(recorded: tuple[Models, GraphSet]) -> None:
    for graph in recorded[1]:
        assert (graph.token[0], graph.parent[0], graph.depth[0]) == (-1, -1, 0)
        assert (graph.parent[1:] < np.arange(1, len(graph))).all()
        np.testing.assert_array_equal(graph.depth[1:], graph.depth[graph.parent[1:]] + 1)
        reached = {0}
        for node in inner_nodes(graph):
            sources = [
                *zip(graph.exit_token[node], graph.exit_child[node], strict=True),
                (graph.llm_token[node], graph.llm_child[node]),
            ]
            for token, child in sources:
                assert (graph.parent[child], graph.token[child]) == (node, token)
                assert graph.child(int(node), int(token)) == child
                reached.add(int(child))
            tokens = [token for token, _ in sources]
            assert len({child for _, child in sources}) == len(set(tokens)), "one child a token"
        assert len(reached) == len(graph), "no node that nothing leads to"


def test_a_closed_graph_lacks_nothing(recorded: tuple[Models, GraphSet]) -> None:
    _, graphs = recorded
    assert graphs.meta.coverage == COVERED
    for graph in graphs:
        inner = inner_nodes(graph)
        assert graph.closed
        assert (graph.exit_child[inner] > 0).all()
        assert (graph.llm_child[inner] > 0).all()


def test_a_terminal_node_ends_the_answer_and_has_the_score_of_its_text(recorded: tuple[Models, GraphSet]) -> None:
    models, graphs = recorded
    for graph in graphs:
        for node in np.flatnonzero(~np.isnan(graph.score)):
            answer = answer_of(graph, node)
            assert answer[-1] in graphs.meta.eos_ids or len(answer) == graphs.meta.max_new_tokens
            text = models.tokenizer.decode(answer, skip_special_tokens=True)
            assert graph.score[node] == pytest.approx(text_score(graph.prompt, text))
            assert (graph.exit_child[node] == -1).all()
            assert graph.llm_child[node] == -1
        for node in inner_nodes(graph):
            assert graph.token[node] not in graphs.meta.eos_ids
            assert graph.depth[node] < graphs.meta.max_new_tokens


def test_some_answers_of_the_akin_pair_end_by_themselves(akin_graphs: GraphSet) -> None:
    """Guards the test above, and the replay's, against graphs without EOS."""
    ends = [g.token[~np.isnan(g.score)] for g in akin_graphs]
    assert 0 < np.isin(np.concatenate(ends), akin_graphs.meta.eos_ids).mean() < 1


def test_the_description_says_what_was_recorded(akin_models: Models, akin_graphs: GraphSet) -> None:
    meta = akin_graphs.meta
    assert (meta.exit_layers, meta.layers, meta.eos_ids, meta.context) == ((1, 2), 2, (2,), 256)
    assert (meta.split, meta.max_new_tokens) == ("train", AKIN_NEW_TOKENS)
    assert (meta.slm_fingerprint, meta.llm_fingerprint) == (akin_models.slm_fingerprint, akin_models.llm_fingerprint)
    assert meta.slm_fingerprint != meta.llm_fingerprint
    assert meta.tokenizer_hash == akin_models.tokenizer_hash
    prompts = {p.text: p.kind for p in tiny_prompts()}
    assert dict(zip(meta.prompts, meta.kinds, strict=True)) == prompts
    assert (meta.notes["device"], meta.notes["dtype"]) == ("cpu", "float32")
    for graph in akin_graphs:
        assert graph.prompt_tokens.tolist() == akin_models.tokenizer.encode(graph.prompt).ids


def test_recording_again_gives_the_same_graphs(tiny_models: Models, open_graphs: GraphSet, tmp_path: Path) -> None:
    again = record_tiny(tiny_models, RANDOM_NEW_TOKENS, SMALL_BUDGET)
    for name in ("one", "two"):
        (again if name == "one" else open_graphs).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_batch_changes_no_figure(akin_models: Models, akin_graphs: GraphSet) -> None:
    lens = Lens.from_tensors(akin_graphs.lens_tensors)
    recorder = Recorder(akin_models, text_score, AKIN_NEW_TOKENS, lens=lens)
    *progress, alone = recorder.record(tiny_prompts(), "train", batch=1)
    assert progress == [1, 2, 3, 4, 5, 6]
    assert isinstance(alone, GraphSet)
    for one, other in zip(alone, akin_graphs, strict=True):
        for graph_name in ("token", "parent", "exit_token", "llm_token"):
            # The order of nodes follows the waves, which a batch shares; the answers that can be reached do not.
            assert len(getattr(one, graph_name)) == len(getattr(other, graph_name))
        ends = [{tuple(answer_of(g, n)) for n in np.flatnonzero(~np.isnan(g.score))} for g in (one, other)]
        assert ends[0] == ends[1]
        np.testing.assert_allclose(one.confidence[0], other.confidence[0], atol=1e-5)
        np.testing.assert_allclose(np.sort(one.confidence[:, 0]), np.sort(other.confidence[:, 0]), atol=1e-5)


def test_a_lens_that_is_given_is_kept(tiny_models: Models, akin_graphs: GraphSet) -> None:
    lens = Lens.from_tensors(akin_graphs.lens_tensors)
    *_, graphs = Recorder(tiny_models, text_score, 2, lens=lens).record(tiny_prompts()[:1], "test")
    assert isinstance(graphs, GraphSet)
    assert Lens.from_tensors(graphs.lens_tensors).fingerprint == lens.fingerprint


def test_importance_is_fitted_on_all_that_is_recorded_and_kept_for_what_is_recorded_next(akin_models: Models) -> None:
    recorder = Recorder(akin_models, text_score, 6)
    *_, first = recorder.record(tiny_prompts(), "train", batch=2)
    assert isinstance(first, GraphSet)
    lens = Lens.from_tensors(first.lens_tensors)
    assert fit_importance(lens, first).fingerprint == lens.fingerprint
    assert np.abs(lens.rejection).max() > 0
    *_, second = recorder.record(tiny_prompts()[:2], "test")
    assert isinstance(second, GraphSet)
    assert Lens.from_tensors(second.lens_tensors).fingerprint == lens.fingerprint


# ---------------------------------------------------------------- budget


def test_a_node_budget_leaves_children_open_and_is_reported(
    open_graphs: GraphSet, tiny_graphs: GraphSet, tmp_path: Path
) -> None:
    open_graphs.save(tmp_path / "open.safetensors")
    loaded = GraphSet.load(tmp_path / "open.safetensors")
    c = loaded.meta.coverage
    assert c["closed"] == 0.0
    assert 0 <= c["random"] < c["random_steps"] < 1
    assert loaded.meta.notes["node_budget"] == SMALL_BUDGET
    assert sum(len(inner_nodes(graph)) for graph in loaded) == SMALL_BUDGET * len(loaded)
    for graph, whole in zip(loaded, tiny_graphs, strict=True):
        assert not graph.closed
        assert (graph.exit_child[inner_nodes(graph)] == -1).any()
        assert len(graph) < len(whole)


def test_what_one_prompt_does_not_need_goes_to_others(akin_models: Models, akin_graphs: GraphSet) -> None:
    """Of an answer that is cut after two tokens there are few nodes; together with it, a longer one gets more than its share."""
    budget, prompts = 150, {g.prompt: len(inner_nodes(g)) for g in akin_graphs}
    assert min(prompts.values()) < budget < max(prompts.values()), "the pair was chosen so"
    graphs = record_tiny(akin_models, AKIN_NEW_TOKENS, budget)
    sizes = {g.prompt: len(inner_nodes(g)) for g in graphs}
    assert sum(sizes.values()) <= budget * len(sizes)
    assert max(sizes.values()) > budget


def test_open_graphs_are_kept_beside_closed_ones(akin_models: Models, akin_graphs: GraphSet) -> None:
    lens = Lens.from_tensors(akin_graphs.lens_tensors)
    *_, graphs = Recorder(akin_models, text_score, AKIN_NEW_TOKENS, 250, lens).record(tiny_prompts(), "train")
    assert isinstance(graphs, GraphSet)
    assert set(graphs.meta.prompts) == {p.text for p in tiny_prompts()}
    closed = sum(graph.closed for graph in graphs)
    assert 0 < closed < len(graphs)
    assert graphs.meta.coverage["closed"] == closed / len(graphs)


def test_an_open_graph_plays_until_it_is_left(open_graphs: GraphSet, tmp_path: Path) -> None:
    open_graphs.save(tmp_path / "open.safetensors")
    env = SyneraReplayEnv(tmp_path / "open.safetensors", [constant_link(rtt_ms=20.0)], DEVICE, CLOUD)
    env.action_space.seed(0)
    outcomes = set()
    for seed in range(30):
        env.reset(seed=seed)
        done = truncated = False
        while not (done or truncated):
            _, _, done, truncated, info = env.step(env.action_space.sample())
            assert info["uncovered"] == truncated
        outcomes.add("ended" if done else "left")
    assert outcomes == {"ended", "left"}


def test_what_a_cut_graph_says_is_what_the_whole_one_says(tiny_graphs: GraphSet, open_graphs: GraphSet) -> None:
    whole_by_prompt = {g.prompt: g for g in tiny_graphs}
    for graph in open_graphs:
        whole = whole_by_prompt[graph.prompt]
        twin = {0: 0}
        for node in inner_nodes(graph):
            other = twin[int(node)]
            assert graph.llm_token[node] == whole.llm_token[other]
            np.testing.assert_array_equal(graph.exit_token[node], whole.exit_token[other])
            np.testing.assert_allclose(graph.confidence[node], whole.confidence[other], atol=1e-5)
            for token in (*graph.exit_token[node], graph.llm_token[node]):
                if (child := graph.child(int(node), int(token))) >= 0:
                    twin[child] = whole.child(other, int(token))
        assert len(twin) == len(graph)


def test_coverage_counts_the_answers_that_stay_inside(tiny_graphs: GraphSet) -> None:
    arrays = {name: np.array(a) for name, a in tiny_graphs._arrays.items()}
    arrays["llm_child"][:] = -1  # whoever follows the LLM leaves at once
    cut = coverage(GraphSet(tiny_graphs.meta, arrays))
    assert (cut["never"], cut["always"]) == (1.0, 0.0)
    # An answer of up to six tokens, each with two sources of three inside.
    assert 0 < cut["random"] < 0.25
    assert 0.3 < cut["random_steps"] < 0.75
    assert coverage(GraphSet(tiny_graphs.meta, arrays)) == cut


def test_an_answer_that_is_lost_at_its_last_token_is_lost(tiny_graphs: GraphSet) -> None:
    """Nearly every step is inside, and hardly an answer."""
    arrays = {name: np.array(a) for name, a in tiny_graphs._arrays.items()}
    last = (arrays["depth"] == RANDOM_NEW_TOKENS - 1) & np.isnan(arrays["score"])
    assert last.sum() > 100
    arrays["llm_child"][last], arrays["exit_child"][last] = -1, -1
    cut = coverage(GraphSet(tiny_graphs.meta, arrays))
    assert cut["random_steps"] > 0.75
    assert cut["random"] < 0.1


# ---------------------------------------------------------------- texts


def test_graphs_read_like_their_answers(recorded: tuple[Models, GraphSet]) -> None:
    """Numbers and punctuation too, with the bundled tokenizer."""
    models, graphs = recorded
    read = 0
    for graph in graphs:
        for node in np.flatnonzero(~np.isnan(graph.score))[:40]:
            answer = [token for token in answer_of(graph, node) if token not in graphs.meta.eos_ids]
            assert graphs.text(answer).strip() == models.tokenizer.decode(answer, skip_special_tokens=False)
            read += 1
        assert graphs.text(graph.prompt_tokens.tolist()).strip() == f"<bos> {graph.prompt} <ans>"
    assert read > 100
    eos = models.tokenizer.token_to_id("<eos>")
    assert graphs.text([eos]).strip() == "<eos>"


# ---------------------------------------------------------------- placement


@pytest.fixture(scope="module", params=OTHER_PLACEMENTS)
def placed(
    request: pytest.FixtureRequest, akin_pair: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Placement, GraphSet]:
    """Graphs of the akin pair, recorded elsewhere than in float32 on the CPU, saved and loaded."""
    placement = named(request.param)
    models = Models.load(akin_pair / "slm", akin_pair / "llm", placement)
    path = tmp_path_factory.mktemp("placed") / "graphs.safetensors"
    record_tiny(models, AKIN_NEW_TOKENS).save(path)
    return placement, GraphSet.load(path)


def test_a_recording_in_another_type_is_closed_and_says_how_it_was_made(placed: tuple[Placement, GraphSet]) -> None:
    placement, graphs = placed
    assert graphs.meta.coverage == COVERED
    assert (graphs.meta.notes["device"], graphs.meta.notes["dtype"]) == (placement.device, placement.dtype)
    for graph in graphs:
        inner = inner_nodes(graph)
        assert (graph.exit_child[inner] > 0).all()
        assert (graph.margin[inner] <= graph.confidence[inner]).all()
        assert graph.confidence.dtype == np.float32
        # A figure that had been rounded to eight bits on its way would have nothing below them.
        assert (graph.confidence[inner].view(np.uint32) & 0xFFFF).any()


def test_a_recording_in_another_type_plays(placed: tuple[Placement, GraphSet]) -> None:
    env = SyneraReplayEnv(placed[1], [constant_link(rtt_ms=20.0)], DEVICE, CLOUD)
    env.action_space.seed(0)
    for prompt in range(env.prompt_count):
        env.reset(seed=prompt, options={"prompt": prompt})
        done = False
        while not done:
            observation, _, done, truncated, info = env.step(env.action_space.sample())
            assert not truncated, info
            assert np.isfinite(observation).all()
        assert info["episode_metrics"]["quality"] in [pytest.approx(x) for x in placed[1][prompt].score if x == x]


def test_root_figures_are_near_those_of_float32(placed: tuple[Placement, GraphSet], akin_graphs: GraphSet) -> None:
    exact = {g.prompt: g for g in akin_graphs}
    limit = 1e-5 if placed[0].dtype == "float32" else 0.06  # bfloat16 came to 0.029
    for graph in placed[1]:
        np.testing.assert_allclose(graph.confidence[0], exact[graph.prompt].confidence[0], atol=limit)


# ---------------------------------------------------------------- greedy answers


def test_greedy_answers_are_the_walks_along_one_source(recorded: tuple[Models, GraphSet]) -> None:
    models, graphs = recorded
    for model, child in ((models.llm, "llm_child"), (models.slm, "exit_child")):
        answers = greedy_answers(model, models.tokenizer, graphs.meta.prompts, graphs.meta.max_new_tokens)
        assert set(answers) == set(graphs.meta.prompts)
        for graph in graphs:
            node = 0
            while np.isnan(graph.score[node]):
                node = int(np.atleast_1d(getattr(graph, child)[node])[-1])
            assert answers[graph.prompt] == models.tokenizer.decode(answer_of(graph, node), skip_special_tokens=True)


# ---------------------------------------------------------------- errors


def test_a_prompt_that_leaves_no_room_is_named(tiny_models: Models) -> None:
    long = Prompt("Bill " * 250, "free")
    with pytest.raises(
        ContextOverflowError, match=r"'Bill Bill .* has 252 tokens; with answers of 6 the context of 256 takes 1 to 250"
    ):
        next(Recorder(tiny_models, text_score, 6).record([*tiny_prompts(), long], "train"))


def test_a_prompt_that_just_fits_is_recorded(tiny_models: Models) -> None:
    *_, graphs = Recorder(tiny_models, text_score, 2).record([Prompt("Bill " * 252, "free")], "train")
    assert isinstance(graphs, GraphSet)
    assert len(graphs[0].prompt_tokens) == 254
    check_node(tiny_models, graphs[0], 0)


@pytest.mark.parametrize(
    ("limits", "message"),
    [((0, 10), "max_new_tokens=0"), ((4, 0), "node_budget=0"), ((4, 10, None, 0), "workers=0")],
)
def test_limits_below_one_are_refused(tiny_models: Models, limits: tuple[Any, ...], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Recorder(tiny_models, text_score, *limits)


def test_nothing_to_record_is_an_error(tiny_models: Models) -> None:
    with pytest.raises(ValueError, match="no prompts"):
        next(Recorder(tiny_models, text_score, 4).record([], "train"))


@pytest.mark.parametrize("score", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_score_outside_its_range_ends_the_recording_at_once(tiny_models: Models, score: float) -> None:
    recorder = Recorder(tiny_models, lambda prompt, answer: score, 2)
    with pytest.raises(SettingError, match=r"the score of an answer to '.*'=.* must be a number in 0\.\.1"):
        next(recorder.record(tiny_prompts()[:1], "train"))


def test_a_lens_of_another_slm_is_refused_before_the_work(tiny_models: Models, akin_graphs: GraphSet) -> None:
    lens = Lens.from_tensors(akin_graphs.lens_tensors)
    other = Lens(lens.mean[:1], lens.directions[:1], lens.rejection[:1], lens.importance)
    with pytest.raises(CheckpointError, match="the lens is for 1 exits of hidden size 32, the SLM has 2 of 32"):
        Recorder(tiny_models, text_score, 4, lens=other)


def test_a_token_that_the_models_lack_is_named(tiny_models: Models) -> None:
    """A tokenizer that grew after its model was trained."""
    tokenizer = Tokenizer.from_str(tiny_models.tokenizer.to_str())
    tokenizer.add_tokens(["extraordinary"])
    models = replace(tiny_models, tokenizer=tokenizer)
    have = models.slm.config.vocab
    with pytest.raises(
        CheckpointError, match=f"gives token {have} for the prompt 'an extraordinary town', but the models have only {have}"
    ):
        next(Recorder(models, text_score, 4).record([Prompt("an extraordinary town", "free")], "train"))
