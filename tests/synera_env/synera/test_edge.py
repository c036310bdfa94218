"""The edge of what was recorded: nothing is invented there, and it is never fatal. What leaving is worth to a learner:
tests/agents/test_truncation.py."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from agents.evaluation import answer, make_plan
from agents.rules import FixedRule
from runtime.errors import SettingError, UncoveredError
from runtime.synera.knobs import Knobs
from synera_env.busy import busy_of
from synera_env.radio import Outages, Radio
from synera_env.synera.replay import ReplayEpisode, SyneraReplayEnv
from synera_env.synera.schema import synera_schema
from synera_env.synera.walk import covers_start
from tests.support.cuts import holed, without
from tests.support.graphs import AKIN_NEW_TOKENS, CLOUD, DEVICE, RANDOM_NEW_TOKENS, record_tiny
from traces.errors import TraceError
from traces.links.generators import constant_link, markov_link
from traces.synera.graph import GraphSet
from traces.synera.record import Models

LINKS = (constant_link(), markov_link(3, seconds=20.0))
KNOBS = len(synera_schema(2).rows)


def make(graphs: GraphSet, **changes: Any) -> SyneraReplayEnv:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"links": LINKS, "device": DEVICE, "cloud": CLOUD, "outages": Outages.never()}
        return SyneraReplayEnv(graphs, **(settings | changes))


@pytest.fixture(scope="module")
def open_graphs(tiny_models: Models) -> GraphSet:
    """Graphs with most of their nodes missing; some lack even the first chunk."""
    return record_tiny(tiny_models, RANDOM_NEW_TOKENS, node_budget=6)


@pytest.fixture(scope="module")
def holed_graphs(tiny_graphs: GraphSet) -> GraphSet:
    """Complete graphs of which some edges were forgotten, of drafts and of what the cloud says."""
    rng, arrays = np.random.default_rng(0), dict(tiny_graphs._arrays)
    for name, share in (("exit_child", 0.05), ("llm_child", 0.2)):
        forgotten = rng.random(arrays[name].shape) < share
        arrays[name] = np.where(forgotten, -1, arrays[name]).astype(np.int32)
    return GraphSet(tiny_graphs.meta, arrays)


@pytest.fixture(scope="module")
def bare_graphs(tiny_models: Models) -> GraphSet:
    """Graphs that hold no first chunk at all."""
    return record_tiny(tiny_models, RANDOM_NEW_TOKENS, node_budget=2)


def begins(graphs: GraphSet, index: int, env: SyneraReplayEnv) -> bool:
    """Whether the session itself can begin."""
    episode = ReplayEpisode(graphs, index, Radio(LINKS[0]), DEVICE, busy_of(CLOUD, None, 0), env.lens)
    try:
        episode.session.begin(episode.prompt_tokens, env.schema.first_knobs)
    except UncoveredError:
        return False
    return True


# ---------------------------------------------------------------- the beginning


def test_a_prompt_that_cannot_be_begun_is_left_out_and_said(tiny_graphs: GraphSet) -> None:
    open_graphs = without(
        tiny_graphs, np.concatenate([(np.arange(len(g)) > 0) & (i % 3 > 0) for i, g in enumerate(tiny_graphs)])
    )
    with pytest.warns(UserWarning, match=r"of 4 of the 6 prompts of the graphs given not even the first chunk was recorded"):
        env = SyneraReplayEnv(open_graphs, LINKS, DEVICE, CLOUD)
    can = {open_graphs.meta.prompts[i] for i in range(6) if begins(open_graphs, i, env)}
    assert 0 < len(can) < 6
    assert {env.reset(seed=seed)[1]["prompt"] for seed in range(60)} == can
    assert {env.episode(seed=seed).prompt for seed in range(60)} == can


def test_the_quick_look_at_a_beginning_is_what_the_session_does(
    open_graphs: GraphSet, tiny_graphs: GraphSet, akin_graphs: GraphSet, bare_graphs: GraphSet
) -> None:
    seen = set()
    for graphs in (open_graphs, tiny_graphs, akin_graphs, bare_graphs):
        schema = make(tiny_graphs).schema
        lens_of = make(graphs) if graphs is not bare_graphs else make(tiny_graphs)
        for index, graph in enumerate(graphs):
            seen.add(begins(graphs, index, lens_of))
            assert covers_start(graph, graphs.meta, schema.first_knobs) == begins(graphs, index, lens_of)
    assert seen == {True, False}


def test_a_world_without_any_beginning_is_refused(bare_graphs: GraphSet) -> None:
    with pytest.raises(
        TraceError, match="of none of the 6 prompts of the graphs given the first chunk was recorded; record with"
    ):
        make(bare_graphs)


def test_naming_a_prompt_that_cannot_be_begun_is_a_mistake_and_the_answer_under_way_goes_on(open_graphs: GraphSet) -> None:
    env = make(open_graphs)
    outcomes = {}
    for prompt in range(6):
        env.reset(seed=0)
        session = env.session
        try:
            env.reset(seed=0, options={"prompt": prompt})
        except SettingError as error:
            outcomes[prompt] = str(error)
            assert env.session is session
            env.step(np.zeros(KNOBS, np.float32))
        else:
            assert begins(open_graphs, prompt, env)
    assert set(outcomes) == {i for i in range(6) if not begins(open_graphs, i, env)}
    assert all("cannot be begun, as its first chunk was not recorded" in said for said in outcomes.values())


def test_evaluation_counts_what_cannot_be_begun(open_graphs: GraphSet) -> None:
    env = make(open_graphs)
    outcomes = [answer(env, FixedRule(Knobs(), env.schema), planned) for planned in make_plan(env, 6)]
    lost = [outcome.prompt for outcome in outcomes if outcome.metrics is None]
    assert set(lost) >= {i for i in range(6) if not begins(open_graphs, i, env)}
    assert len(outcomes) == 6


def test_training_over_open_graphs_goes_on(holed_graphs: GraphSet) -> None:
    """Nothing that is not recorded raises out of an environment that is stepped and reset for a while."""
    env, rng = make(holed_graphs), np.random.default_rng(0)
    env.reset(seed=0)
    ends = {"terminated": 0, "uncovered": 0}
    for _ in range(400):
        *_, terminated, truncated, info = env.step(rng.uniform(-1, 1, KNOBS).astype(np.float32))
        if terminated or truncated:
            ends["uncovered" if info["uncovered"] else "terminated"] += 1
            env.reset()
    assert min(ends.values()) > 5


# ---------------------------------------------------------------- a step off the graph


def left(env: SyneraReplayEnv, episodes: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Walk at random; of each answer that leaves, what its last step was given and gave."""
    rng = np.random.default_rng(seed)
    for number in range(episodes):
        observation, _ = env.reset(seed=number)
        done = False
        while not done:
            before, seen = len(env.session.records), observation
            observation, reward, terminated, truncated, info = env.step(rng.uniform(-1, 1, KNOBS).astype(np.float32))
            done = terminated or truncated
        if truncated:
            settled = len(env.session.records) > before
            yield {"seen": seen, "observation": observation, "reward": reward, "info": info, "settled": settled}


def test_a_step_off_the_graph_counts_as_not_taken(holed_graphs: GraphSet, akin_graphs: GraphSet) -> None:
    env, akin, settled = make(holed_graphs), make(holed(akin_graphs, 0.1)), set()
    for end in (*left(akin, 120), *left(env, 40)):
        info = end["info"]
        assert (info["uncovered"], info["offloaded"]) == (True, False)
        assert info["reward_terms"] == dict.fromkeys(("quality", "latency", "cost", "energy", "traffic"), 0.0)
        assert end["reward"] == 0.0
        np.testing.assert_array_equal(end["observation"], end["seen"])
        assert "larger node budget" in info["reason"]
        assert "episode_metrics" not in info
        settled.add(end["settled"])
    assert settled == {True, False}, "the verdict is not known, or only what follows it"
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(np.zeros(KNOBS, np.float32))


def test_what_a_step_needs_not_read_need_not_be_recorded(tiny_graphs: GraphSet) -> None:
    """A draft whose last token leads out is decided on; checked and corrected before that token, the answer goes on."""
    went_on = 0
    for index, graph in enumerate(tiny_graphs):
        first = int(graph.exit_child[0, -1])
        second = int(graph.exit_child[first, -1])
        if second < 0 or graph.llm_token[0] == graph.token[first]:
            continue
        start = sum(len(tiny_graphs[i]) for i in range(index))
        dropped = np.zeros(tiny_graphs.nodes, bool)
        dropped[start + second] = True
        env, always = make(without(tiny_graphs, dropped)), Knobs(confidence_threshold=1.0, offload_budget=1.0, draft_length=1)
        session = env.episode(seed=0, options={"prompt": index}).session
        point = session.begin(graph.prompt_tokens.tolist(), Knobs(draft_length=2))
        assert point.draft.ids == (graph.token[first], graph.token[second])
        record = session.advance(always).record
        assert record.committed == (graph.llm_token[0],)
        went_on += 1
    assert went_on > 2


def test_the_score_of_an_answer_whose_end_is_not_recorded_is_not_invented(tiny_graphs: GraphSet) -> None:
    """Not at the end of an answer that was drafted ahead of a verdict, either."""
    ends = np.concatenate([~np.isnan(graph.score) for graph in tiny_graphs])
    env, outcomes = make(without(tiny_graphs, ends)), []
    for number, knobs in enumerate((Knobs(), Knobs(confidence_threshold=1.0, offload_budget=1.0, draft_ahead=0.0)) * 6):
        env.reset(seed=number, options={"prompt": number % 6})
        done = False
        while not done:
            *_, terminated, truncated, info = env.advance(knobs)
            done = terminated or truncated
        outcomes.append((terminated, truncated, info["uncovered"]))
    assert set(outcomes) == {(False, True, True)}


@pytest.mark.parametrize("share", [0.02, 0.1])
def test_what_stays_inside_a_cut_graph_is_what_it_was(akin_graphs: GraphSet, share: float) -> None:
    """Token by token, whatever is drafted ahead; and no answer that ends has another score, or none."""
    edge, whole, rng = make(holed(akin_graphs, share, seed=1)), make(akin_graphs), np.random.default_rng(0)
    ends = {"inside": 0, "left": 0}
    for number in range(90):
        if number % 6 not in edge.startable:
            continue
        knobs = [
            Knobs(
                confidence_threshold=1.0,
                offload_budget=float(rng.integers(2)),
                draft_length=int(rng.integers(1, 6)),
                draft_ahead=0.0,
                exit_margin=float(rng.choice([0.3, 0.7, 1.0])),
                exit_index=int(rng.integers(2)),
            )
            for _ in range(AKIN_NEW_TOKENS)
        ]
        told = []
        for env in (whole, edge):
            env.reset(seed=number, options={"prompt": number % 6})
            for each in knobs:
                *_, terminated, truncated, info = env.advance(each)
                if terminated or truncated:
                    break
            told.append(([r.committed for r in env.session.records], truncated, info.get("episode_metrics")))
        (truth, _, metrics), (found, truncated, found_metrics) = told
        assert found == truth[: len(found)]
        assert truncated or (found_metrics["tokens"], found_metrics["quality"]) == (metrics["tokens"], metrics["quality"])
        ends["left" if truncated else "inside"] += 1
    assert min(ends.values()) > 5
