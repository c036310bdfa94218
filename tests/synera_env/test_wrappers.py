"""Wrappers for training: a preference that stays, worlds that are drawn, a reward for each objective."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from synera_env import FixedPreference, Preference, RandomWorld, SettingError, VectorReward
from tests.support.graphs import CLOUD, DEVICE
from traces.links.generators import constant_link
from traces.synera.graph import GraphSet
from traces.workload.generators import poisson

TERMS = tuple(each.name for each in fields(Preference))


@pytest.fixture
def env(akin_graphs: GraphSet) -> Any:
    return gym.make("SyneraReplay-v0", graphs=akin_graphs, links=[constant_link()], device=DEVICE, cloud=CLOUD)


def weights(observation: Any, env: Any) -> Any:
    schema = env.unwrapped.schema
    return [float(observation[schema.places(f"weight_{name}")][0]) for name in TERMS]


def test_a_fixed_preference_is_that_of_every_answer_but_one_that_is_named(env: Any) -> None:
    fixed = FixedPreference(env, {"cost": 3.0})
    seen = [weights(fixed.reset(seed=seed)[0], env) for seed in range(3)]
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][TERMS.index("cost")] == pytest.approx(np.log10(3.0), abs=1e-6)
    other = fixed.reset(seed=0, options={"preference": Preference(cost=1.0)})[0]
    assert weights(other, env)[TERMS.index("cost")] == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(SettingError, match="preference weight cost=-1"):
        FixedPreference(env, {"cost": -1.0})


def test_worlds_are_drawn_by_the_seed_and_each_answer_is_in_its_own(env: Any) -> None:
    devices = [replace(DEVICE, name=name) for name in ("one", "two")]
    clouds = [replace(CLOUD, name=name) for name in ("near", "far")]
    links = [[constant_link(20.0)], [constant_link(200.0)]]
    world = RandomWorld(env, devices, clouds, links, [None, poisson(1.0, 30.0)])

    def drawn(seed: int) -> list[dict[str, Any]]:
        found = []
        for each in range(60):
            _, info = world.reset(seed=seed if each == 0 else None)
            assert info["world"] == {
                "device": env.unwrapped.device.name,
                "cloud": env.unwrapped.cloud.name,
                "links": ["constant-20ms", "constant-200ms"].index(info["link"]),
                "load": None if env.unwrapped.cloud_load is None else "poisson-1",
            }
            assert env.unwrapped.cloud_load is None or env.unwrapped.cloud_load.cloud == env.unwrapped.cloud
            found.append(info["world"])
        return found

    assert drawn(3) == drawn(3) != drawn(4)
    assert len({tuple(each.values()) for each in drawn(3)}) == 16


def test_what_is_not_drawn_stays_the_environments_own(env: Any) -> None:
    _, info = RandomWorld(env).reset(seed=0)
    assert info["world"] == {"device": DEVICE.name, "cloud": CLOUD.name, "links": 0, "load": None}
    with pytest.raises(SettingError, match="env='CartPoleEnv' is no replay"):
        RandomWorld(gym.make("CartPole-v1"))  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="devices=3 must be a DeviceProfile"):
        RandomWorld(env, devices=[3])  # type: ignore[list-item]
    with pytest.raises(SettingError, match="cloud_load=3 must be"):
        RandomWorld(env, loads=[3])  # type: ignore[list-item]


@pytest.mark.parametrize("seed", range(4))
def test_the_vector_reward_weighted_is_the_reward(akin_graphs: GraphSet, seed: int) -> None:
    world = {"graphs": akin_graphs, "links": [constant_link()], "device": DEVICE, "cloud": CLOUD}
    env: Any = gym.make("mo-SyneraReplay-v0", **world)
    assert isinstance(env, VectorReward)
    assert env.reward_dim == len(TERMS)
    env.reset(seed=seed)
    env.action_space.seed(seed)
    paid = np.array(list(asdict(env.unwrapped._preference).values()))
    ended, returned = False, np.zeros(len(TERMS))
    while not ended:
        _, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert env.reward_space.contains(reward)
        assert paid @ reward == pytest.approx(info["scalar_reward"], rel=1e-9)
        returned, ended = returned + reward, terminated or truncated
    metrics = info["episode_metrics"]
    assert returned[0] == metrics["quality"]
    assert -returned[1:4] == pytest.approx([metrics[name] for name in ("seconds", "cloud_seconds", "joules")])
