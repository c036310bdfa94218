"""Wrappers for training: fixed preferences, worlds that change from answer to answer, and a reward for each objective.

What does not live here: the environment (base.py) and discrete actions (discrete.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.settings import shown
from synera_env.arguments import Links, Source, made, read_links, read_preference
from synera_env.base import Observation
from synera_env.busy import CloudLoad, read_cloud_load
from synera_env.reward import Preference
from traces.profile import CloudProfile, DeviceProfile
from traces.workload.readers import load_workload

_Wrapper = gym.Wrapper[Observation, NDArray[np.float32], Observation, NDArray[np.float32]]


class FixedPreference(_Wrapper, RecordConstructorArgs):
    """Every answer has this preference, whatever the environment draws; an option of `reset` still names another."""

    def __init__(self, env: gym.Env[Any, Any], preference: Preference | Mapping[str, float]) -> None:
        """See the class.

        Raises:
            SettingError: the preference is none, or a weight is out of range.
        """
        RecordConstructorArgs.__init__(self, preference=preference)
        gym.Wrapper.__init__(self, env)
        self.preference = read_preference(preference)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """See :class:`synera_env.base.DecisionEnv`."""
        return self.env.reset(seed=seed, options={"preference": self.preference} | dict(options or {}))


class RandomWorld(_Wrapper, RecordConstructorArgs):
    """Each answer is in a world drawn from these (domain randomisation): device, cloud, set of links and load of the cloud, each by
    itself.

    A controller that is to serve phones, clouds and networks that it was not trained on is trained on many. What is drawn
    is in the `reset` info as `world`: names of both profiles and of the workload, and the place of the set of links.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        devices: Sequence[DeviceProfile | Mapping[str, Any] | Source] = (),
        clouds: Sequence[CloudProfile | Mapping[str, Any] | Source] = (),
        links: Sequence[Links] = (),
        loads: Sequence[CloudLoad | None] = (),
    ) -> None:
        """See the class.

        Args:
            env: a replay; others have no profiles to draw.
            devices: device profiles or their files; none keeps the environment's.
            clouds: cloud profiles or their files, likewise.
            links: sets of link traces or their files, likewise; sets are drawn evenly, whatever their sizes.
            loads: workloads or their files, likewise, each worked out for every cloud; None among them is the cloud profile's own load.

        Raises:
            SettingError: the environment is no replay, or what is given is of a wrong type or makes no sense for a cloud.
            TraceError: a file is missing or damaged.
        """
        from synera_env.synera.replay import SyneraReplayEnv

        RecordConstructorArgs.__init__(self, devices=devices, clouds=clouds, links=links, loads=loads)
        gym.Wrapper.__init__(self, env)
        replay = env.unwrapped
        if not isinstance(replay, SyneraReplayEnv):
            raise SettingError(f"env={shown(type(replay).__name__)} is no replay, so it has no profiles to draw from")
        self._replay = replay
        self.devices = [made("devices", each, DeviceProfile, DeviceProfile.load) for each in devices] or [replay.device]
        self.clouds = [made("clouds", each, CloudProfile, CloudProfile.load) for each in clouds] or [replay.cloud]
        self.links = [read_links(each) for each in links] or [replay.links]
        read = [load_workload(each) if isinstance(each, Source) else each for each in loads]
        self.loads = [[read_cloud_load(each, cloud) for each in read] or [replay.cloud_load] for cloud in self.clouds]
        """By cloud."""
        self._rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observation, dict[str, Any]]:
        """See :class:`synera_env.base.DecisionEnv`; the seed fixes the worlds of this answer and of those after it, too."""
        if seed is not None:
            self._rng = np.random.default_rng([seed, 1])
        device, cloud, links, load = (
            int(self._rng.integers(len(each))) for each in (self.devices, self.clouds, self.links, self.loads[0])
        )
        replay = self._replay
        replay.device, replay.cloud, replay.links = self.devices[device], self.clouds[cloud], self.links[links]
        replay.cloud_load = shared = self.loads[cloud][load]
        observation, info = self.env.reset(seed=seed, options=options)
        world = {"device": replay.device.name, "cloud": replay.cloud.name, "links": links}
        return observation, info | {"world": world | {"load": None if shared is None else shared.workload}}


class VectorReward(_Wrapper, RecordConstructorArgs):
    """A reward for each objective instead of their weighted sum, as multi-objective learners take it (MO-Gymnasium's form).

    `step` returns float64 [5], `info["vector_reward"]` of any environment: task score, -seconds, -cloud seconds, -joules,
    -megabytes (the order of :class:`synera_env.reward.Preference`). Their sum weighted by the answer's preference is in `info["scalar_reward"]`; the
    weights are observed, as ever.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        """See the class."""
        RecordConstructorArgs.__init__(self)
        gym.Wrapper.__init__(self, env)
        low, high = np.array([0.0] + [-np.inf] * 4), np.array([1.0] + [0.0] * 4)
        self.reward_space = spaces.Box(low, high, dtype=np.float64)
        self.reward_dim = len(low)

    def step(self, action: NDArray[np.float32]) -> tuple[Observation, SupportsFloat, bool, bool, dict[str, Any]]:
        """See :class:`synera_env.base.DecisionEnv`; the reward is a vector."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, info["vector_reward"], terminated, truncated, info | {"scalar_reward": reward}
