"""The vector environment as others use it; that it is the scalar one many times over: tests/contract/test_vector.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import NormalizeObservation, RecordEpisodeStatistics

from runtime.errors import SettingError
from synera_env import SyneraReplayEnv, chance
from synera_env.schema import Schema
from synera_env.synera.kernel import formulas
from synera_env.synera.kernel.step import step
from synera_env.synera.kernel.world import world_of
from synera_env.synera.vector import SyneraReplayVectorEnv
from tests.support.graphs import CLOUD, DEVICE
from traces.links.generators import constant_link
from traces.synera.graph import GraphSet

ROWS = 5


@pytest.fixture
def world(akin_graphs: GraphSet) -> dict[str, Any]:
    return {"graphs": akin_graphs, "links": [constant_link()], "device": DEVICE, "cloud": CLOUD}


def made(world: dict[str, Any], **more: Any) -> Any:
    return gym.make_vec("SyneraReplay-v0", num_envs=ROWS, vectorization_mode="vector_entry_point", **world, **more)


def test_gymnasium_makes_it_with_the_arguments_of_the_scalar_one(
    world: dict[str, Any], recwarn: pytest.WarningsRecorder
) -> None:
    env = made(world, outages={"mean_seconds": 0.0}, check_deadline=3.0, preference={"latency": 0.2})
    assert isinstance(env.unwrapped, SyneraReplayVectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.SAME_STEP
    assert env.unwrapped.scalar.check_deadline == 3.0
    seen, info = env.reset(seed=1)
    assert env.observation_space.contains(seen)
    assert set(info["prompt"]) <= set(env.unwrapped.scalar.graphs.meta.prompts)
    seen, rewards, *_ = env.step(env.action_space.sample())
    assert env.observation_space.contains(seen)
    assert rewards.shape == (ROWS,)
    assert not recwarn.list


def test_rows_go_on_from_where_others_stand(world: dict[str, Any]) -> None:
    """All become the second one, whose answer then goes on as it would have."""
    env = made(world, autoreset_mode=AutoresetMode.NEXT_STEP).unwrapped
    actions = [np.random.default_rng(number).uniform(-1, 1, env.action_space.shape).astype(np.float32) for number in range(3)]
    seen: dict[bool, Any] = {}
    for branched in (False, True):
        env.reset(seed=3)
        env.step(actions[0])
        if branched:
            env.branch(np.full(ROWS, 1))
        seen[branched] = [env.step(np.repeat(each[1:2], ROWS, 0))[:4] for each in actions[1:]]
    for alone, together in zip(seen[False], seen[True], strict=True):
        for single, several in zip(alone, together, strict=True):
            np.testing.assert_array_equal(several, np.repeat(single[1:2], ROWS, 0))
    assert not np.array_equal(seen[False][0][0], seen[True][0][0])


def test_a_check_is_answered_where_the_cloud_can_be_reached(world: dict[str, Any]) -> None:
    for outages, answered in (
        ({"mean_seconds": 0.0, "loss_rate": 0.0}, True),
        ({"every_seconds": 1e-3, "mean_seconds": 1e4}, False),
    ):
        env = made(world, outages=outages, autoreset_mode=AutoresetMode.NEXT_STEP).unwrapped
        env.reset(seed=0)
        *_, info = env.step(np.stack([env.schema.action(env.schema.presets["always"])] * ROWS))
        assert info["offloaded"].all()
        np.testing.assert_array_equal(env.answered, np.full(ROWS, answered))
        *_, info = env.step(np.stack([env.schema.action(env.schema.presets["never"])] * ROWS))
        assert not env.answered.any()


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_gymnasium_s_wrappers_take_it(world: dict[str, Any], mode: AutoresetMode) -> None:
    """What they say of an answer is what its metrics say."""
    env, ended = RecordEpisodeStatistics(made(world, autoreset_mode=mode)), 0
    if mode == AutoresetMode.NEXT_STEP:  # the only one that this wrapper takes
        env = NormalizeObservation(env)  # type: ignore[assignment]
    env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(30):
        seen, _, terminated, _, info = env.step(env.action_space.sample())
        assert np.isfinite(seen).all()
        if terminated.any():
            found, wanted = info["episode"], info["final_info"]["episode_metrics"]
            np.testing.assert_allclose(found["r"][terminated], wanted["reward"][terminated], rtol=1e-6)
            np.testing.assert_array_equal(found["l"][terminated], wanted["chunks"][terminated])
            ended += terminated.sum()
    assert ended > 5


def test_what_it_returned_stays_what_it_was(world: dict[str, Any]) -> None:
    env = made(world)
    returned = [env.reset(seed=0)[0]]
    copies = [returned[0].copy()]
    for _ in range(5):
        seen, rewards, *_ = env.step(env.action_space.sample())
        returned += [seen, rewards]
        copies += [seen.copy(), rewards.copy()]
    for one, copy in zip(returned, copies, strict=True):
        np.testing.assert_array_equal(one, copy)
    again = made(world)
    again.reset(seed=0)
    seen[:] = 7.0  # who writes into what was returned changes nothing
    assert not (env.step(env.action_space.sample())[0] == 7.0).all()


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("num_envs", 0, "num_envs=0"),
        ("render_mode", "rgb_array", "render_mode='rgb_array' is not supported here"),
        ("autoreset_mode", "Sometimes", "autoreset_mode='Sometimes' is not one of SameStep, NextStep, Disabled"),
        ("check_deadline", 0.5, "check_deadline=0.5"),
    ],
)
def test_arguments_that_make_no_sense_are_named(world: dict[str, Any], argument: str, value: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        SyneraReplayVectorEnv(**({"num_envs": 2} | world | {argument: value}))


def test_actions_and_seeds_that_make_no_sense_are_named(world: dict[str, Any]) -> None:
    env = SyneraReplayVectorEnv(2, **world)
    actions = np.zeros((2, 7), np.float32)
    with pytest.raises(RuntimeError, match="call reset"):
        env.step(actions)
    for seed, message in ((-1, "seed=-1"), ([1, 2, 3], "must have 2 entries"), ("1", "seed='1'")):
        with pytest.raises(SettingError, match=message):
            env.reset(seed=seed)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="unknown reset option 'pace'"):
        env.reset(options={"pace": 1})
    env.reset(seed=[4, None])
    with pytest.raises(SettingError, match=r"shape \[2, 6\]"):
        env.step(actions[:, :6])
    actions[1, 4] = np.nan
    with pytest.raises(SettingError, match="row 1 has NaN for draft_length"):
        env.step(actions)
    actions[:] = [[np.inf], [-np.inf]]  # clipped, as all that lies outside
    env.step(actions)


def test_a_row_that_compiled_code_does_not_know_is_refused(world: dict[str, Any]) -> None:
    env = SyneraReplayEnv(**world)
    schema = env.schema
    features = [replace(row, name="other") if row.name == "load" else row for row in schema.features]
    env.schema = Schema("synera", schema.rows, features, make_knobs=None, first_knobs=schema.first_knobs, presets={})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not those of the compiled replay"):
        world_of(env)


def test_what_was_compiled_of_other_sources_is_not_taken_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """numba asks only the file of the step itself whether it changed; a formula lies elsewhere."""
    before, read = formulas.sources(), Path.read_bytes
    assert formulas.sources() == before
    formula = Path(chance.__file__)
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path == formula))
    assert formulas.sources() != before


def test_actions_of_any_layout_are_taken_without_compiling_anew(world: dict[str, Any]) -> None:
    env = SyneraReplayVectorEnv(2, **world)
    env.reset(seed=0)
    drawn = env.action_space.sample()
    env.step(drawn)
    compiled = list(step.signatures)
    for actions in (np.broadcast_to(drawn[0], drawn.shape), np.asfortranarray(drawn), drawn.astype(np.float64), drawn.tolist()):
        env.step(actions)  # type: ignore[arg-type]
    assert list(step.signatures) == compiled


# ---------------------------------------------------------------- nodes


def test_what_is_laid_of_a_graph_is_what_a_walk_reads(world: dict[str, Any]) -> None:
    """All figures, from the root to every node that a token leads to; of a graph with nodes to which none does any more."""
    graphs = world["graphs"]
    arrays = {name: array.copy() for name, array in graphs.arrays.items()}
    cut = int(np.flatnonzero(graphs[0].llm_child >= 0)[-1])
    arrays["llm_child"][cut], arrays["exit_child"][cut] = -1, -1
    graphs = GraphSet(graphs.meta, arrays)
    env = SyneraReplayVectorEnv(2, **world | {"graphs": graphs})
    env.reset(seed=0, options={"prompt": 0})
    laid, graph = env._world.graphs, graphs[0]
    assert laid.root[0] == 0
    todo, met = [(0, 0)], 0
    while todo:
        node, place = todo.pop()
        met += 1
        said = laid.nodes[place]
        assert said["llm_token"] == graph.llm_token[node]
        np.testing.assert_array_equal(said["score"], graph.score[node])
        for exit_index, at_exit in enumerate(laid.exits[place]):
            token = graph.exit_token[node, exit_index]
            child = graph.child(node, int(token))
            assert (at_exit["token"], at_exit["child"] >= 0) == (token, child >= 0)
            for name in ("confidence", "margin", "entropy", "runner_up"):
                assert at_exit[name] == getattr(graph, name)[node, exit_index]
            np.testing.assert_array_equal(at_exit["sketch"].view(np.float16), graph.sketch[node, exit_index])
            if exit_index == len(laid.exits[place]) - 1 and child >= 0:
                assert at_exit["child"] == place + 1  # what a draft of full depth reads next
        leads = {int(graph.exit_child[node, e]): int(laid.exits[place, e]["child"]) for e in range(laid.exits.shape[1])}
        leads[int(graph.llm_child[node])] = int(said["llm_child"])
        todo += [(child, at) for child, at in leads.items() if child >= 0]
    assert 20 < met < len(graph)


def test_a_graph_is_laid_once_and_the_memory_of_its_file_put_back(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world["graphs"].save(tmp_path / "graphs.safetensors")
    env = SyneraReplayVectorEnv(2, **world | {"graphs": tmp_path / "graphs.safetensors"})
    times: list[GraphSet] = []
    monkeypatch.setattr(GraphSet, "put_back", lambda graphs: times.append(graphs))
    for _ in range(3):
        env.reset(seed=0, options={"prompt": 1})
    assert times == [env.scalar.graphs]
    assert (env._world.graphs.root >= 0).sum() == 1
