"""The edge of what was recorded: nothing is invented there, it is never fatal, and leaving never pays."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

from agents.evaluation import answer, make_plan
from agents.rules import FixedRule
from runtime.errors import SettingError, UncoveredError
from runtime.session import Cost
from runtime.synera.knobs import Knobs
from synera_env.radio import Outages, Radio
from synera_env.reward import Preference, reward_terms
from synera_env.synera.replay import ReplayEpisode, SyneraReplayEnv
from synera_env.synera.schema import synera_schema
from synera_env.synera.walk import covers_start
from tests.support.graphs import CLOUD, DEVICE, RANDOM_NEW_TOKENS, record_tiny
from traces.errors import TraceError
from traces.links.generators import constant_link, markov_link
from traces.synera.graph import GraphSet
from traces.synera.record import Models

LINKS = (constant_link(), markov_link(3, seconds=20.0))
FLEE = Knobs(draft_length=1, exit_index=0)
KNOBS = len(synera_schema(2).rows)
"""Keeps every chunk at the shallowest exit: the cheapest way to finish."""


def make(graphs: GraphSet, **changes: Any) -> SyneraReplayEnv:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = {"links": LINKS, "device": DEVICE, "cloud": CLOUD, "outages": Outages.never()}
        return SyneraReplayEnv(graphs, **(settings | changes))


@pytest.fixture(scope="module")
def open_graphs(tiny_models: Models) -> GraphSet:
    """Graphs with most of their nodes missing; some lack even the first chunk."""
    return record_tiny(tiny_models, RANDOM_NEW_TOKENS, node_budget=60)


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
    rng = np.random.default_rng(0)
    episode = ReplayEpisode(graphs, index, Radio(LINKS[0]), DEVICE, CLOUD, env.lens, rng)
    try:
        episode.session.begin(episode.prompt_tokens, env.schema.first_knobs)
    except UncoveredError:
        return False
    return True


# ---------------------------------------------------------------- the beginning


def test_a_prompt_that_cannot_be_begun_is_left_out_and_said(open_graphs: GraphSet) -> None:
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


def test_a_step_off_the_graph_ends_the_answer_and_says_so(holed_graphs: GraphSet) -> None:
    env, rng, settled, unsettled = make(holed_graphs), np.random.default_rng(0), 0, 0
    for seed in range(60):
        env.reset(seed=seed)
        done, steps = False, 0
        while not done:
            observation, reward, terminated, truncated, info = env.step(rng.uniform(-1, 1, KNOBS).astype(np.float32))
            steps += 1
            assert env.observation_space.contains(observation)
            assert info["uncovered"] == truncated
            assert not (terminated and truncated)
            assert set(info["reward_terms"]) == {"quality", "latency", "cost", "energy", "traffic"}
            assert reward == pytest.approx(sum(info["reward_terms"].values()))
            done = terminated or truncated
            if truncated:
                assert reward < 0
                assert info["reward_terms"]["quality"] == 0.0
                settled += len(env.session.records) == steps
                unsettled += len(env.session.records) < steps
                assert "larger node budget" in info["reason"]
                assert "episode_metrics" not in info
                with pytest.raises(RuntimeError, match="call reset"):
                    env.step(np.zeros(KNOBS, np.float32))
    assert settled > 0
    assert unsettled > 0


@pytest.mark.parametrize("preference", [Preference(), Preference(latency=1.0, energy=0.1)])
def test_leaving_costs_what_was_settled_and_the_rest_of_the_longest_answer(
    holed_graphs: GraphSet, preference: Preference
) -> None:
    env, rng, checked = make(holed_graphs, preference=preference), np.random.default_rng(1), 0
    token = (DEVICE.call_ms + holed_graphs.meta.exit_layers[-1] * DEVICE.layer_ms + DEVICE.head_ms) / 1e3
    for seed in range(60):
        env.reset(seed=seed)
        truncated = terminated = False
        while not (truncated or terminated):
            before, hand = len(env.session.records), env._point.draft
            _, reward, terminated, truncated, _ = env.step(rng.uniform(-1, 1, KNOBS).astype(np.float32))
        if not truncated:
            continue
        records, left = env.session.records, RANDOM_NEW_TOKENS - len(env.session.answer)
        settled = records[-1].cost if len(records) > before else Cost()
        seconds = left * token if len(records) > before else (left - len(hand.tokens)) * token + hand.seconds
        undone = Cost(seconds=seconds, joules=DEVICE.busy_watts * seconds)
        wanted = sum(reward_terms(settled, 0.0, preference).values()) + sum(reward_terms(undone, 0.0, preference).values())
        assert reward == pytest.approx(wanted)
        checked += 1
    assert checked > 10


def test_no_policy_gains_by_leaving(holed_graphs: GraphSet, tiny_graphs: GraphSet) -> None:
    """Whoever, where a policy leaves, had kept everything from there on instead, does no worse, even if all was wrong.

    The closed graphs of the same prompts tell what that would have been.
    """
    preference = Preference(latency=1.0, cost=20.0, energy=0.1)
    edge, whole = (make(g, preference=preference) for g in (holed_graphs, tiny_graphs))
    assert edge.graphs.meta.prompts == whole.graphs.meta.prompts
    rng, gains = np.random.default_rng(2), []
    for seed in range(150):
        _, info = edge.reset(seed=seed)
        actions, paid, truncated, terminated = [], 0.0, False, False
        while not (truncated or terminated):
            actions.append(rng.uniform(-1, 1, KNOBS).astype(np.float32))
            _, reward, terminated, truncated, _ = edge.step(actions[-1])
            paid += reward
        if not truncated:
            continue
        prompt = whole.graphs.meta.prompts.index(info["prompt"])
        names = [link.name for link in LINKS]
        options = {"prompt": prompt, "link": names.index(info["link"]), "link_offset_seconds": info["link_offset_seconds"]}
        whole.reset(seed=seed, options=options)
        otherwise = sum(whole.step(action)[1] for action in actions[:-1])
        done = False
        while not done:
            _, _, done, _, info = whole.advance(FLEE)
            otherwise += sum(value for name, value in info["reward_terms"].items() if name != "quality")
        gains.append(paid - otherwise)
    assert len(gains) > 30
    assert max(gains) <= 1e-9
