"""The contract of growth: an answer over graphs that grow is, to the nanosecond, the answer over graphs in which all was recorded;
and what a controller does live, against a real verifier, is what the replay over grown graphs says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents.evaluation import PlannedAnswer, answer, answer_all, make_plan
from agents.rules import RandomRule
from cloud.config import ServerConfig
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.synera.ahead import likeliest
from runtime.synera.chunk import ChunkRecord
from synera_env import Outages, SyneraReplayEnv
from synera_env.fidelity import same_tokens
from synera_env.synera.live import SyneraLiveEnv
from tests.contract.test_live_replay import SCHEMA, TIME_BLIND
from tests.contract.test_stall_free import run
from tests.runtime.synera.test_ahead import guessing
from tests.support.growing import bare, growing
from tests.support.language import any_knobs
from tests.support.recorded import GPU, LINKS, PHONE, Recorded, recorded
from traces.links.generators import constant_link
from traces.synera.growing import GrowingGraphs
from traces.synera.record_models import Models


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture(scope="module")
def models(pair: Recorded) -> Models:
    return Models.load(pair.slm, pair.llm)


@pytest.fixture(scope="module")
def grown(pair: Recorded, models: Models) -> GrowingGraphs:
    """Grows from example to example, with slots for a few hundred tokens, which are given up and taken again."""
    room = 300 * (models.slm.cached_bytes + models.llm.cached_bytes)
    return growing(models, bare(pair.graphs), pair.score, cache_bytes=room)


def env_of(graphs: GrowingGraphs) -> SyneraReplayEnv:
    return SyneraReplayEnv(graphs, LINKS, PHONE, GPU, outages=Outages.never())


def what_is_the_same(records: Sequence[ChunkRecord]) -> list[tuple[object, ...]]:
    """All of a record but the figures, which differ in their last bits."""
    same = []
    for r in records:
        ahead = r.ahead and (r.ahead.guess, r.ahead.hit, r.ahead.drafted, r.ahead.kept, r.ahead.seconds, r.ahead.saved_seconds)
        tokens = [(t.token, t.exit_index, t.runner_up) for t in r.draft.tokens]
        same.append((tokens, r.draft.seconds, r.cost, r.committed, r.committed_at, r.offloaded, r.error, r.verdict, ahead))
    return same


def figures(records: Sequence[ChunkRecord]) -> list[float]:
    return [f for r in records for t in r.draft.tokens for f in (t.confidence, t.margin, t.entropy)]


@settings(max_examples=150)
@given(data=st.data())
def test_growth_gives_the_records_of_a_recorded_graph(data: st.DataObject, pair: Recorded, grown: GrowingGraphs) -> None:
    links = (constant_link(rtt_ms=data.draw(st.floats(0, 300))),)
    outages = Outages(loss_rate=0.2)
    knobs = [replace(k, exit_index=min(k.exit_index, 1)) for k in data.draw(st.lists(any_knobs, min_size=1, max_size=8))]
    options = {"prompt": data.draw(st.integers(0, len(grown) - 1))}
    rule, lost = (
        data.draw(st.none() | st.integers(0, 2**32)),
        data.draw(st.none() | st.frozensets(st.integers(1, 6), max_size=3)),
    )
    found = []
    for graphs in (pair.graphs, grown):
        env = SyneraReplayEnv(graphs, links, PHONE, GPU, outages=outages)
        episode = env.episode(seed=3, options=options, lost=lost)
        episode.session._guess = likeliest if rule is None else guessing(rule)
        records = run(episode.session, episode.prompt_tokens, knobs)
        found.append((records, episode.session.answer, episode.score()))
    (one, tokens, score), (other, same_answer, same_score) = found
    assert what_is_the_same(one) == what_is_the_same(other)
    assert figures(other) == pytest.approx(figures(one), abs=1e-5)
    assert (same_answer, same_score) == (tokens, pytest.approx(score))


def test_the_test_above_met_graphs_that_grew(pair: Recorded, grown: GrowingGraphs) -> None:
    """And that gave up slots; so that with figures of another prefix it would have failed."""
    env = env_of(grown)
    for planned in make_plan(env, 24, seed=3):
        answer(env, RandomRule(SCHEMA), planned)
    assert len(grown) < grown.nodes <= pair.graphs.nodes
    assert grown.nodes_run > 100
    assert grown.runs.counts.prefix_tokens > 2 * sum(len(graph.prompt_tokens) for graph in grown)


def test_side_by_side_answers_are_those_of_one_after_the_other(pair: Recorded, models: Models) -> None:
    """Whatever they share: waves, prompts, and nodes that another has run ahead."""
    env = pair.env()
    plan = make_plan(env, 24, seed=5)
    for name in ("random", "threshold", "always"):
        alone = [answer(env, TIME_BLIND[name], planned) for planned in plan]
        graphs = growing(models, bare(pair.graphs), pair.score)
        together = answer_all(env_of(graphs), TIME_BLIND[name], plan)
        assert [a.tokens for a in together] == [a.tokens for a in alone]
        assert [what_is_the_same(a.records) for a in together] == [what_is_the_same(a.records) for a in alone]
        assert [a.prompt for a in together] == [planned.prompt for planned in plan]
        assert graphs.runs.counts.mean_wave > 2


# ---------------------------------------------------------------- live


@pytest.fixture(scope="module")
def live(pair: Recorded, tiny_llm: Path) -> Iterator[SyneraLiveEnv]:
    with running_server(ServerConfig(model=tiny_llm)) as port, CloudClient(f"127.0.0.1:{port}") as client:
        env = SyneraLiveEnv(client, pair.device(), pair.prompts, pair.score, emulate_link=False)
        yield env
        env.close()


@pytest.mark.parametrize("name", TIME_BLIND)
def test_live_is_what_the_replay_over_grown_graphs_says(live: SyneraLiveEnv, pair: Recorded, models: Models, name: str) -> None:
    replay = env_of(growing(models, bare(pair.graphs), pair.score))
    plan = [replace(p, link=0, link_offset_seconds=0.0) for p in make_plan(replay, 6, seed=1)]
    for planned in plan:
        real = answer(live, TIME_BLIND[name], planned)
        check = same_tokens(real.records, replay, planned.prompt)
        assert check.identical, f"prompt {planned.prompt}: {check.first_difference}"
        assert real.metrics is not None
        assert real.metrics.quality == pytest.approx(quality(replay, name, planned))


def quality(replay: SyneraReplayEnv, name: str, planned: PlannedAnswer) -> float:
    metrics = answer(replay, TIME_BLIND[name], planned).metrics
    assert metrics is not None, "graphs that grow cover every answer"
    return metrics.quality


def test_no_answer_leaves_graphs_that_grow(pair: Recorded, models: Models) -> None:
    """Every knob at random, from prompts of which one node is known."""
    env = env_of(growing(models, bare(pair.graphs), pair.score))
    _, info = env.reset(seed=0)
    env.action_space.seed(0)
    ended = 0
    for _ in range(200):
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        assert not truncated
        assert not info["uncovered"]
        if terminated:
            ended += 1
            env.reset()
    assert ended > 10
