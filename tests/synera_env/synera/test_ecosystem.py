"""The environment as others use it: stable-baselines3's string ids, Gymnasium's wrappers, vectors and videos."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.wrappers import (
    FlattenObservation,
    NormalizeObservation,
    NormalizeReward,
    RecordEpisodeStatistics,
    RecordVideo,
    TimeLimit,
)
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecNormalize

import synera_env  # noqa: F401 - registers the ids
from synera_env.synera.schema import synera_schema
from tests.support.graphs import CLOUD, DEVICE
from traces.links.generators import constant_link
from traces.synera.graph import GraphSet

NAME = "SyneraReplay-v0"
KNOBS = len(synera_schema(2).rows)


@pytest.fixture
def world(akin_graphs: GraphSet) -> dict[str, Any]:
    """Arguments of a small world."""
    return {"graphs": akin_graphs, "links": [constant_link()], "device": DEVICE, "cloud": CLOUD}


def finish(env: Any, seed: int = 0) -> tuple[int, dict[str, Any]]:
    """Answer with random actions; return the steps that it took and the last info."""
    env.reset(seed=seed)
    env.action_space.seed(seed)
    steps, ended = 0, False
    while not ended:
        *_, terminated, truncated, info = env.step(env.action_space.sample())
        steps, ended = steps + 1, terminated or truncated
    return steps, info


# ---------------------------------------------------------------- stable-baselines3


def test_ppo_learns_on_the_id_alone() -> None:
    model = PPO("MlpPolicy", "SyneraReplay-v0", n_steps=64, device="cpu").learn(128)
    assert model.num_timesteps == 128
    assert model.get_env().render_mode == "rgb_array"
    frame = model.get_env().render()
    assert frame is not None
    assert frame.dtype == np.uint8


def test_a_vector_of_the_id_is_made_and_shown() -> None:
    vec = make_vec_env("SyneraReplay-v0", 2)
    try:
        vec.reset()
        _, rewards, _, infos = vec.step(np.zeros((2, *vec.action_space.shape), np.float32))
        assert rewards.shape == (2,)
        assert all("reward_terms" in info for info in infos)
        assert {image.shape for image in vec.get_images()} == {(540, 960, 3)}
    finally:
        vec.close()


def test_stable_baselines3_finds_nothing_to_remark(world: dict[str, Any], recwarn: pytest.WarningsRecorder) -> None:
    for mode in (None, "rgb_array"):
        sb3_check_env(gym.make(NAME, **world, render_mode=mode).unwrapped, warn=True)
    assert not recwarn.list


def test_gymnasium_checks_both_render_modes(world: dict[str, Any]) -> None:
    from gymnasium.utils.env_checker import check_env

    for mode in ("ansi", "rgb_array"):
        check_env(gym.make(NAME, **world, render_mode=mode).unwrapped)


def test_processes_step_it_as_one_process_does(world: dict[str, Any]) -> None:
    found = []
    for kind in (DummyVecEnv, SubprocVecEnv):
        processes = {"vec_env_cls": SubprocVecEnv, "vec_env_kwargs": {"start_method": "spawn"}} if kind is SubprocVecEnv else {}
        vec = make_vec_env(
            f"synera_env:{NAME}", 2, seed=4, env_kwargs=world, **processes
        )  # a process of its own has imported nothing
        try:
            vec.reset()
            found.append([vec.step(np.full((2, KNOBS), 0.2, np.float32))[:2] for _ in range(6)])
        finally:
            vec.close()
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_allclose(one[1], other[1], rtol=1e-6)  # one of them rounds to float32


def test_monitors_and_normalisers_go_around_it(world: dict[str, Any], tmp_path: Path) -> None:
    vec = VecNormalize(DummyVecEnv([lambda: Monitor(gym.make(NAME, **world), str(tmp_path / "log"))]))
    vec.reset()
    returns, metrics = [], []
    while len(returns) < 3:
        observations, _, _, infos = vec.step(np.zeros((1, KNOBS), np.float32))
        assert np.isfinite(observations).all()
        if "episode" in infos[0]:
            returns.append(infos[0]["episode"]["r"])
            metrics.append(infos[0]["episode_metrics"]["reward"])
    assert returns == pytest.approx(metrics, abs=1e-5)
    vec.save(str(tmp_path / "normal.pkl"))
    again = VecNormalize.load(str(tmp_path / "normal.pkl"), vec.venv)
    np.testing.assert_array_equal(again.obs_rms.mean, vec.obs_rms.mean)
    vec.close()
    assert len((tmp_path / "log.monitor.csv").read_text().splitlines()) == 2 + 3


def test_dqn_learns_on_choices(world: dict[str, Any]) -> None:
    env = gym.make("SyneraReplay-discrete-v0", **world)
    model = DQN("MlpPolicy", env, learning_starts=32, buffer_size=256, device="cpu").learn(96)
    assert 0 <= int(model.predict(env.reset(seed=0)[0])[0]) < env.action_space.n


# ---------------------------------------------------------------- Gymnasium


@pytest.mark.parametrize("name", [NAME, "SyneraReplay-discrete-v0", "mo-SyneraReplay-v0"])
def test_a_specification_is_text_that_makes_the_environment_again(tmp_path: Path, akin_graphs: GraphSet, name: str) -> None:
    akin_graphs.save(tmp_path / "graphs.safetensors")
    made = gym.make(name, graphs=str(tmp_path / "graphs.safetensors"), device=asdict(DEVICE), preference={"cost": 1.0})
    again = gym.make(EnvSpec.from_json(made.spec.to_json()))
    pickled = pickle.loads(pickle.dumps(made))  # noqa: S301 - our own
    for one, other in ((made, again), (pickled, again)):
        for env in (one, other):
            env.action_space.seed(5)
        np.testing.assert_array_equal(one.reset(seed=5)[0], other.reset(seed=5)[0])
        for _ in range(4):
            left, right = one.step(one.action_space.sample()), other.step(other.action_space.sample())
            np.testing.assert_array_equal(left[0], right[0])
            np.testing.assert_array_equal(left[1], right[1])
            if left[2]:
                break


def test_a_pickled_one_holds_its_graphs_and_no_answer(world: dict[str, Any]) -> None:
    env = gym.make(NAME, **world).unwrapped
    env.reset(seed=1)
    again = pickle.loads(pickle.dumps(env))  # noqa: S301 - our own
    with pytest.raises(RuntimeError, match="no answer is under way"):
        again.step(np.zeros(KNOBS, np.float32))
    np.testing.assert_array_equal(again.reset(seed=1)[0], env.reset(seed=1)[0])


def test_a_video_is_recorded(world: dict[str, Any], tmp_path: Path) -> None:
    env = RecordVideo(gym.make(NAME, **world, render_mode="rgb_array"), str(tmp_path / "videos"), disable_logger=True)
    finish(env)
    env.close()
    (video,) = (tmp_path / "videos").glob("*.mp4")
    assert video.stat().st_size > 1000
    assert b"ftyp" in video.read_bytes()[:32]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: TimeLimit(env, 1000),
        RecordEpisodeStatistics,
        FlattenObservation,
        NormalizeObservation,
        NormalizeReward,
        lambda env: NormalizeObservation(FlattenObservation(RecordEpisodeStatistics(TimeLimit(env, 1000)))),
    ],
)
def test_wrappers_change_nothing_of_an_answer(world: dict[str, Any], wrap: Callable[[Any], Any]) -> None:
    bare, wrapped = (finish(env) for env in (gym.make(NAME, **world), wrap(gym.make(NAME, **world))))
    assert wrapped[0] == bare[0]
    assert wrapped[1]["episode_metrics"] == pytest.approx(bare[1]["episode_metrics"], nan_ok=True)


def test_statistics_are_those_of_the_metrics(world: dict[str, Any]) -> None:
    steps, info = finish(RecordEpisodeStatistics(gym.make(NAME, **world)))
    assert info["episode"]["l"] == steps
    assert info["episode"]["r"] == pytest.approx(info["episode_metrics"]["reward"], rel=1e-4)


def test_a_time_limit_truncates_without_calling_it_uncovered(world: dict[str, Any]) -> None:
    env = TimeLimit(gym.make(NAME, **world), 1)
    env.reset(seed=0, options={"prompt": 2})
    *_, terminated, truncated, info = env.step(-np.ones(KNOBS, np.float32))
    assert (terminated, truncated, info["uncovered"]) == (False, True, False)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vectors_step_it(world: dict[str, Any], mode: str) -> None:
    vec = gym.make_vec(NAME, num_envs=2, vectorization_mode=mode, **world)
    try:
        observations, _ = vec.reset(seed=3)
        assert observations.shape == (2, *vec.single_observation_space.shape)
        vec.action_space.seed(3)
        ended = np.zeros(2, bool)
        for _ in range(40):
            _, rewards, terminated, _, infos = vec.step(vec.action_space.sample())
            assert np.isfinite(rewards).all()
            assert "reward_terms" in infos or ended.all()
            ended = ended | terminated
        assert ended.all()
    finally:
        vec.close()


def test_vectors_of_one_seed_are_alike(world: dict[str, Any]) -> None:
    found = []
    for mode in ("sync", "async"):
        vec = gym.make_vec(NAME, num_envs=2, vectorization_mode=mode, **world)
        vec.reset(seed=5)
        found.append([vec.step(np.full((2, KNOBS), 0.3, np.float32))[:2] for _ in range(10)])
        vec.close()
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
