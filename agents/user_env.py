"""A user's environment, wrapped as it may be, and what of ours is in it: what the policy is shown, and what is done with its actions.

Whatever changes observations or actions on the way must be known, or a policy would act otherwise where it is deployed. What does
not live here: the policy (networks.py) and its export (export.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import SyncVectorEnv, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from agents.vector import CompiledVecEnv
from runtime.settings import shown
from synera_env import DecisionEnv, DiscreteChoices, FixedPreference, PreferenceRange, SettingError

_HARMLESS = (VecMonitor, VecCheckNan)


@dataclass(frozen=True)
class UserEnv:
    """One environment of a user's, taken apart."""

    env: gym.Env[Any, Any]
    """What is stepped: the scalar environment with its wrappers."""
    decision: DecisionEnv
    """The environment of ours in it."""
    choices: DiscreteChoices | None
    """What makes its actions discrete, if they are."""
    preferences: PreferenceRange
    """Those that its answers have."""
    statistics: tuple[VecNormalize, ...] = ()
    """What normalises its observations, the first first."""

    @classmethod
    def of(cls, env: Any) -> UserEnv:
        """Take an environment apart.

        Args:
            env: of ours: scalar, vectorised by Gymnasium or stable-baselines3, wrapped.

        Raises:
            SettingError: none of ours is in it, or something in it changes observations or actions in a way that cannot be exported.
        """
        statistics: list[VecNormalize] = []
        while isinstance(env, VecEnvWrapper):
            if isinstance(env, VecNormalize):
                statistics = [env, *statistics] if env.norm_obs else statistics
            elif not isinstance(env, _HARMLESS):
                raise _changing(env)
            env = env.venv
        discrete = isinstance(getattr(env, "action_space", None), spaces.Discrete)
        if isinstance(env, VecEnv | VectorEnv):
            env = _scalar(env)
        if not isinstance(env, gym.Env) or not isinstance(env.unwrapped, DecisionEnv):
            raise SettingError(
                f"env={shown(type(env).__name__)} is no environment of Synera Env; hand over the one that the model was trained in"
            )
        if discrete and env is env.unwrapped:
            env = DiscreteChoices(env)  # rows that are compiled have no wrappers
        decision, wrappers = env.unwrapped, list(_wrappers(env))
        choices = [each for each in wrappers if isinstance(each, DiscreteChoices)]
        fixed = [each for each in wrappers if isinstance(each, FixedPreference)]
        preferences = PreferenceRange.of(fixed[0].preference) if fixed else decision.preferences
        return cls(env, decision, choices[0] if choices else None, preferences, tuple(statistics))

    def shown(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the model is shown of an observation of the environment."""
        for each in self.statistics:
            observation = each.normalize_obs(observation)  # type: ignore[assignment]
        return observation

    @property
    def names(self) -> list[str]:
        """Of the wrappers, the outermost first."""
        passed = (*self.statistics[::-1], *_wrappers(self.env))
        return [type(each).__name__ for each in passed if not isinstance(each, Tap)]

    @contextmanager
    def tapped(self) -> Iterator[tuple[gym.Env[Any, Any], Tap]]:
        """Yield the environment, and what comes and goes between its wrappers and the environment of ours."""
        tap, wrappers = Tap(self.decision), list(_wrappers(self.env))
        if not wrappers:
            yield tap, tap
            return
        wrappers[-1].env = tap
        try:
            yield self.env, tap
        finally:
            wrappers[-1].env = self.decision


class Tap(gym.Wrapper[Any, Any, Any, Any]):
    """Remembers the last observation and the last action."""

    observation: NDArray[np.float32]
    action: NDArray[np.float32]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See :class:`synera_env.DecisionEnv`."""
        self.observation, info = self.env.reset(seed=seed, options=options)
        return self.observation, info

    def step(self, action: Any) -> Any:
        """See :class:`synera_env.DecisionEnv`."""
        self.action = np.array(action, np.float32)
        self.observation, *others = self.env.step(action)
        return self.observation, *others


def _scalar(env: VecEnv | VectorEnv[Any, Any, Any]) -> Any:
    """One of the environments that are stepped together."""
    if isinstance(env, CompiledVecEnv):
        env = env.vector
    if isinstance(env, DummyVecEnv | SyncVectorEnv):
        return env.envs[0]
    if isinstance(found := getattr(env, "scalar", None), DecisionEnv):
        return found
    raise SettingError(
        f"env={type(env).__name__} does not show its environments (they may be in other processes): hand over one made as they are, "
        "by gymnasium.make"
    )


def _wrappers(env: gym.Env[Any, Any]) -> Iterator[gym.Wrapper[Any, Any, Any, Any]]:
    """Those of a scalar environment, the outermost first.

    Raises:
        SettingError: one changes observations or actions.
    """
    decision = env.unwrapped
    while isinstance(env, gym.Wrapper):
        action = isinstance(env, gym.ActionWrapper) and not isinstance(env, DiscreteChoices)
        if action or isinstance(env, gym.ObservationWrapper) or env.observation_space != decision.observation_space:
            raise _changing(env)
        yield env
        env = env.env


def _changing(wrapper: Any) -> SettingError:
    return SettingError(
        f"env has the wrapper {type(wrapper).__name__}, which may change observations or actions and cannot be exported: train without "
        "it (statistics of stable-baselines3's VecNormalize can be), or hand over a torch.nn.Module that does the same, and the env without it"
    )
