"""Environments that Stable-Baselines3 steps side by side: compiled, or so that what one of them waits for is fetched together
with the others'.

What does not live here: the waiting (traces/synera/waves.py) and the environments.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from synera_env import SettingError, side_by_side


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


class CompiledVecEnv(VecEnv):
    """A vector environment of Gymnasium that resets within the step, as Stable-Baselines3 wants one: its arrays are handed on as
    they are, and the same seeds and options give the same answers as a DummyVecEnv of its scalar environments.

    What a step says of its rows is in `vectors`, by name and as arrays. In `infos` a row has something only where its answer is
    over: `terminal_observation`, `TimeLimit.truncated`, `uncovered`, and `episode_metrics` unless it left the recorded graphs.
    """

    def __init__(self, vector: VectorEnv[Any, Any, Any]) -> None:
        """Take a vector environment in hand; closed with it."""
        self.vector = vector
        self.vectors: Mapping[str, Any] = {}
        """What the last step said."""
        self._actions: NDArray[np.float32] | None = None
        super().__init__(vector.num_envs, vector.single_observation_space, vector.single_action_space)

    def reset(self) -> VecEnvObs:
        """Begin an answer in every row.

        Raises:
            SettingError: rows were given options of their own, or some have a seed and some not.
        """
        if any(options != self._options[0] for options in self._options):
            raise SettingError("rows of a compiled environment share one set of reset options; set the same ones for all")
        seeds = None if all(seed is None for seed in self._seeds) else self._seeds
        observations, _ = self.vector.reset(seed=seeds, options=self._options[0] or None)  # type: ignore[arg-type]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: NDArray[np.float32]) -> None:
        """Note what was decided."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Step every row, and begin the next answer of those that are over."""
        observations, rewards, terminated, truncated, self.vectors = self.vector.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        over = terminated | truncated
        if over.any():
            last, final = self.vectors["final_obs"], self.vectors["final_info"]["episode_metrics"]
            rows = np.flatnonzero(over)
            metrics = np.stack([final[name][rows] for name in final], 1).tolist()
            for row, left, values in zip(rows.tolist(), truncated[rows].tolist(), metrics, strict=True):
                infos[row] = {"terminal_observation": last[row], "TimeLimit.truncated": left, "uncovered": left}
                if not left:
                    infos[row]["episode_metrics"] = dict(zip(final, values, strict=True))
        return observations, rewards.astype(np.float32), over, infos

    def close(self) -> None:
        """Close the vector environment."""
        self.vector.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of the vector environment, once a row."""
        return [getattr(self.vector, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Rows have no attributes of their own.

        Raises:
            SettingError: always.
        """
        raise SettingError(f"rows of a compiled environment share one world, so none can be given its own {attr_name}")

    def env_method(self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any) -> list[Any]:
        """Rows are no environments of their own.

        Raises:
            SettingError: always.
        """
        raise SettingError(f"rows of a compiled environment are no environments, so there is no {method_name} to call")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: VecEnvIndices = None) -> list[bool]:
        """None is."""
        return [False for _ in self._get_indices(indices)]


def compiled(env: VecEnv) -> CompiledVecEnv | None:
    """Return the compiled rows inside, if it is they that are stepped."""
    while isinstance(env, VecEnvWrapper):
        env = env.venv
    return env if isinstance(env, CompiledVecEnv) else None
