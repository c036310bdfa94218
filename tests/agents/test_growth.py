"""A training over graphs that grow: it says what it added, and how that fell."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.evaluation import answer, answer_all, make_plan
from agents.learning.run import train
from agents.rules import RandomRule
from agents.search import grid_search
from agents.signals import measure_signals
from agents.utility import decisions
from synera_env import Knobs, Outages, SyneraReplayEnv
from tests.support.growing import bare, growing
from tests.support.recorded import GPU, LINKS, PHONE, TINY_RUN, Recorded, recorded, trained
from traces.synera.growing import GrowingGraphs
from traces.synera.record_models import Models

TAGS = {"growth/nodes", "growth/new_nodes_per_step", "growth/share_of_time_in_models"}


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


def grown(pair: Recorded) -> GrowingGraphs:
    return growing(Models.load(pair.slm, pair.llm), bare(pair.graphs), pair.score)


def env_of(graphs: GrowingGraphs) -> SyneraReplayEnv:
    return SyneraReplayEnv(graphs, LINKS, PHONE, GPU, outages=Outages.never())


@pytest.fixture(scope="module")
def run(pair: Recorded, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, GrowingGraphs]:
    folder, graphs = tmp_path_factory.mktemp("runs") / "grown", grown(pair)
    config = replace(TINY_RUN, steps=512, validate_every=512)
    train(lambda preference: SyneraReplayEnv(graphs, LINKS, PHONE, GPU, preference), env_of(graphs), config, folder)
    return folder, graphs


def test_a_run_says_what_its_graphs_have_grown_by(run: tuple[Path, GrowingGraphs], pair: Recorded) -> None:
    folder, graphs = run
    stated = json.loads((folder / "config.json").read_text())
    assert stated["train"]["grows"] is True
    growth = stated["growth"]
    # The export asks the policy about further answers.
    assert graphs.nodes - 20 < growth["nodes"] <= graphs.nodes
    assert growth["nodes"] - growth["nodes_run"] == pytest.approx(graphs.nodes - graphs.nodes_run, abs=20)
    assert 0 < growth["waves"] <= graphs.runs.counts.waves
    assert 0 < growth["share_of_time_in_models"] < 1
    rates = growth["new_nodes_per_step"]
    assert len(rates) == 4
    assert rates[0] > rates[-1]
    assert json.loads((folder / "bundle" / "bundle.json").read_text())["provenance"]["growth"] == growth
    assert graphs.nodes <= pair.graphs.nodes


def test_tensorboard_shows_how_they_grow(run: tuple[Path, GrowingGraphs], tiny_llm: Path) -> None:
    events = EventAccumulator(str(run[0] / "tb"))
    events.Reload()
    assert set(events.Tags()["scalars"]) >= TAGS
    nodes = [event.value for event in events.Scalars("growth/nodes")]
    assert nodes == sorted(nodes)
    assert nodes[-1] <= run[1].nodes
    recorded_only = EventAccumulator(str(trained(tiny_llm) / "tb"))
    recorded_only.Reload()
    assert not TAGS & set(recorded_only.Tags()["scalars"])
    assert "growth" not in json.loads((trained(tiny_llm) / "config.json").read_text())


def test_the_answers_of_a_validation_go_side_by_side_and_come_in_the_order_of_the_plan(pair: Recorded) -> None:
    graphs = grown(pair)
    env = env_of(graphs)
    plan, rule = make_plan(env, 20, seed=2), RandomRule(env.schema)
    together = answer_all(env, rule, plan)
    assert graphs.runs.counts.mean_wave > 2
    assert [a.prompt for a in together] == [p.prompt for p in plan]
    assert [a.tokens for a in together] == [answer(env, rule, p).tokens for p in plan]


def test_the_environment_goes_on_with_its_own_answer_while_its_siblings_answer(pair: Recorded) -> None:
    env = env_of(grown(pair))
    env.reset(seed=4)
    one, *others = env.siblings(3)
    assert one is env
    assert len({id(each.graphs) for each in (env, *others)}) == 1  # type: ignore[attr-defined]
    before = env.session
    for place, other in enumerate(others):
        other.reset(seed=place)
        other.advance(Knobs())
    assert env.session is before
    assert not env.session.records
    assert len({id(each.np_random) for each in (env, *others)}) == 3
    assert list(pair.env().siblings(3))[1:] == []


def test_a_search_over_graphs_that_grow_finds_what_one_over_recorded_ones_does(pair: Recorded) -> None:
    grid = [Knobs(), Knobs(confidence_threshold=1.0, offload_budget=1.0), Knobs(exit_index=0)]
    one, other = (grid_search(env, 12, grid=grid) for env in (pair.env(), env_of(grown(pair))))
    assert (one.knobs, one.tried) == (other.knobs, other.tried)
    assert one.reward == pytest.approx(other.reward)


def test_what_is_measured_of_decisions_is_told_in_waves_and_is_as_over_recorded_graphs(pair: Recorded) -> None:
    whole = SyneraReplayEnv(pair.graphs, LINKS, PHONE, GPU, outages=Outages.never())
    first, second = grown(pair), grown(pair)
    done: list[None] = []
    one, other = decisions(whole, 6), decisions(env_of(first), 6, finished=lambda: done.append(None))
    assert other.prompts.tolist() == one.prompts.tolist()
    assert other.advantages == pytest.approx(one.advantages, abs=1e-6)
    assert len(done) == 6
    met, again = (measure_signals(env, 6) for env in (whole, env_of(second)))
    assert (again.chunks, again.covered, again.rejected, again.matters) == (met.chunks, 1.0, met.rejected, met.matters)
    for graphs in (first, second):
        assert graphs.runs.counts.mean_wave > 1.5
