"""Environments stepped side by side: as Stable-Baselines3's own vector steps them, and together where graphs grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv

from agents.callbacks import EpisodeMeans
from agents.vector import CompiledVecEnv, SideBySideVecEnv
from synera_env import Outages, SettingError, SyneraReplayEnv
from tests.support.cuts import likeliest
from tests.support.growing import bare, growing
from tests.support.recorded import GPU, LINKS, PHONE, Recorded, recorded
from traces.synera.growing import GrowingGraphs
from traces.synera.record_models import Models

ENVS, STEPS = 5, 60


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture
def grown(pair: Recorded) -> GrowingGraphs:
    return growing(Models.load(pair.slm, pair.llm), bare(pair.graphs), pair.score)


def played(kind: type[DummyVecEnv], graphs: Any) -> list[tuple[Any, ...]]:
    """What random actions come to, step by step."""
    envs = [SyneraReplayEnv(graphs, LINKS, PHONE, GPU, outages=Outages.never()) for _ in range(ENVS)]
    vector = kind([lambda env=env: env for env in envs])  # type: ignore[misc]
    vector.seed(3)
    vector.set_options({"prompt": 1})
    rng, found = np.random.default_rng(0), [(vector.reset(), vector.reset_infos)]
    for _ in range(STEPS):
        actions = rng.uniform(-1, 1, (ENVS, *vector.action_space.shape)).astype(np.float32)
        found.append((*vector.step(actions), list(vector.reset_infos)))
    vector.close()
    return found


def assert_same(one: Any, other: Any, tolerance: float = 0.0) -> None:
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key], tolerance)
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b, tolerance)
    elif isinstance(one, np.ndarray | float):
        np.testing.assert_allclose(one, other, atol=tolerance, rtol=0)
    else:
        assert one == other


def test_where_nothing_grows_it_is_the_vector_of_stable_baselines(pair: Recorded) -> None:
    assert_same(played(SideBySideVecEnv, pair.graphs), played(DummyVecEnv, pair.graphs))


def test_over_graphs_that_grow_it_is_as_over_recorded_ones_and_in_waves(pair: Recorded, grown: GrowingGraphs) -> None:
    # Sketches are kept in half precision.
    assert_same(played(SideBySideVecEnv, grown), played(DummyVecEnv, pair.graphs), tolerance=0.02)
    assert grown.nodes_run > 50
    assert grown.runs.counts.waves < grown.nodes_run / 1.5


def test_a_mistake_in_one_environment_reaches_the_caller(pair: Recorded, grown: GrowingGraphs) -> None:
    envs = [SyneraReplayEnv(grown, LINKS, PHONE, GPU) for _ in range(3)]
    vector = SideBySideVecEnv([lambda env=env: env for env in envs])  # type: ignore[misc]
    vector.reset()
    envs[1].close()
    actions = np.zeros((3, *vector.action_space.shape), np.float32)
    with pytest.raises(RuntimeError, match="call reset"):
        vector.step(actions)
    vector.reset()
    vector.step(actions)


# ---------------------------------------------------------------- compiled


def compiled(graphs: Any, rows: int = ENVS) -> CompiledVecEnv:
    vector = SyneraReplayEnv(graphs, LINKS, PHONE, GPU, outages=Outages.never()).vector(rows)
    assert vector is not None
    return CompiledVecEnv(vector)


def scalar(graphs: Any, rows: int = ENVS) -> DummyVecEnv:
    return DummyVecEnv([lambda: SyneraReplayEnv(graphs, LINKS, PHONE, GPU, outages=Outages.never())] * rows)


def test_the_compiled_one_steps_as_that_of_stable_baselines(pair: Recorded) -> None:
    """Graphs with nodes taken out, so that answers leave, too; the same seeds and options."""
    graphs, rng, left, ended = likeliest(pair.graphs, 0.4), np.random.default_rng(0), 0, 0
    one, other = compiled(graphs), scalar(graphs)
    for vector in (one, other):
        vector.seed(3)
        vector.set_options({"link": 1})
    np.testing.assert_array_equal(one.reset(), other.reset())
    for _ in range(STEPS):
        actions = rng.uniform(-1, 1, (ENVS, *one.action_space.shape)).astype(np.float32)  # type: ignore[misc]
        (seen, rewards, dones, infos), (wanted_seen, wanted_rewards, wanted_dones, wanted) = (
            one.step(actions),
            other.step(actions),
        )
        np.testing.assert_array_equal(seen, wanted_seen)
        np.testing.assert_array_equal(rewards, wanted_rewards)
        assert rewards.dtype == wanted_rewards.dtype
        np.testing.assert_array_equal(dones, wanted_dones)
        for row in np.flatnonzero(dones):
            for name in ("terminal_observation", "TimeLimit.truncated", "uncovered"):
                np.testing.assert_array_equal(infos[row][name], wanted[row][name])
            assert infos[row].get("episode_metrics") == pytest.approx(wanted[row].get("episode_metrics"), nan_ok=True)
            left, ended = left + infos[row]["uncovered"], ended + ("episode_metrics" in infos[row])
    assert min(left, ended) > 8


def test_a_rollout_of_the_compiled_one_is_that_of_the_scalar_ones(pair: Recorded) -> None:
    """Observations, rewards with what is to come, advantages, and the means that are logged."""
    graphs, found = likeliest(pair.graphs, 0.7), []
    for vector in (compiled(graphs), scalar(graphs)):
        model = PPO("MlpPolicy", vector, n_steps=STEPS, batch_size=STEPS, gamma=1.0, seed=4, device="cpu")
        model.set_logger(configure(None, []))
        logged: dict[str, Any] = {}
        model.logger.record = lambda tag, value, *_, into=logged: into.update({tag: value})  # type: ignore[method-assign]
        _, callback = model._setup_learn(STEPS * ENVS, EpisodeMeans({}))
        assert model.collect_rollouts(vector, callback, model.rollout_buffer, STEPS)  # type: ignore[arg-type]
        buffer = model.rollout_buffer
        found.append((buffer.observations, buffer.rewards, buffer.advantages, buffer.episode_starts, logged))
    (*arrays, logged), (*wanted, wanted_logged) = found
    for one, other in zip(arrays, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert {tag for tag in logged if tag.startswith("episode/")}
    assert logged == pytest.approx(wanted_logged)


def test_what_rows_of_their_own_would_need_is_refused(pair: Recorded) -> None:
    vector = compiled(pair.graphs, 2)
    vector.set_options([{"link": 0}, {"link": 1}])
    with pytest.raises(SettingError, match="share one set of reset options"):
        vector.reset()
    with pytest.raises(SettingError, match="share one world"):
        vector.set_attr("links", LINKS)
    with pytest.raises(SettingError, match="no environments"):
        vector.env_method("render")
