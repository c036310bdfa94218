"""Environments that Stable-Baselines3 steps side by side: what one of them waits for is fetched together with the others'.

What does not live here: the waiting (traces/synera/waves.py) and the environments.
"""

from __future__ import annotations

from copy import deepcopy
from functools import partial

import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from synera_env import side_by_side


class SideBySideVecEnv(DummyVecEnv):
    """A DummyVecEnv whose environments take each step together; where none waits, nothing else differs."""

    def step_wait(self) -> VecEnvStepReturn:
        """Step every environment, and reset those whose episode ended."""
        side_by_side([partial(self._step, place) for place in range(self.num_envs)])
        return self._obs_from_buf(), np.copy(self.buf_rews), np.copy(self.buf_dones), deepcopy(self.buf_infos)

    def reset(self) -> VecEnvObs:
        """Begin an episode in every environment."""
        side_by_side([partial(self._reset, place) for place in range(self.num_envs)])
        self._reset_seeds()
        self._reset_options()
        return self._obs_from_buf()

    def _step(self, place: int) -> None:
        env = self.envs[place]
        observation, reward, terminated, truncated, info = env.step(self.actions[place])
        info["TimeLimit.truncated"] = truncated and not terminated
        if terminated or truncated:
            info["terminal_observation"] = observation
            observation, self.reset_infos[place] = env.reset()
        self.buf_rews[place], self.buf_dones[place], self.buf_infos[place] = reward, terminated or truncated, info
        self._save_obs(place, observation)

    def _reset(self, place: int) -> None:
        options = {"options": self._options[place]} if self._options[place] else {}
        observation, self.reset_infos[place] = self.envs[place].reset(seed=self._seeds[place], **options)
        self._save_obs(place, observation)
