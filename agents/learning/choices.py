"""Discrete actions for environments that are stepped side by side: a number takes one of the schema's settings.

What does not live here: the settings (a schema's `choices`), and the same for one environment (synera_env/discrete.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnv, VecEnvIndices, VecEnvObs, VecEnvStepReturn

from agents.vector import CompiledVecEnv
from synera_env import DecisionEnv, DiscreteChoices, Schema

_MASKS = "action_masks"
Masks = Callable[[], NDArray[np.bool_]]


def choice_table(schema: Schema) -> NDArray[np.float32]:
    """Return the Box action of each choice, [choices, knobs]."""
    return np.stack([schema.action(each) for each in schema.choices])


class ChoiceVecEnv(VecEnvWrapper):
    """`Discrete(n)` actions over environments with Box actions; `env_method("action_masks")` says what can be done, as
    sb3-contrib's agents ask it.
    """

    def __init__(self, venv: VecEnv, schema: Schema, masks: Masks) -> None:
        """See the class.

        Args:
            venv: with the schema's Box actions.
            schema: whose choices.
            masks: says of every row which choices can be done now, [rows, choices].
        """
        self._table, self._masks = choice_table(schema), masks
        super().__init__(venv, action_space=spaces.Discrete(len(self._table)))

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Step by the settings that the numbers stand for."""
        self.venv.step_async(self._table[actions])

    def step_wait(self) -> VecEnvStepReturn:
        """See the environment inside."""
        return self.venv.step_wait()

    def reset(self) -> VecEnvObs:
        """See the environment inside."""
        return self.venv.reset()

    def has_attr(self, attr_name: str) -> bool:
        """There are masks."""
        return attr_name == _MASKS or super().has_attr(attr_name)

    def env_method(self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any) -> list[Any]:
        """`action_masks` of each row; anything else is of the environment inside."""
        if method_name == _MASKS:
            masks = self._masks()
            return [masks[row] for row in self._get_indices(indices)]
        return super().env_method(method_name, *method_args, indices=indices, **method_kwargs)


def with_choices(stepped: VecEnv, environments: Sequence[DecisionEnv]) -> ChoiceVecEnv:
    """Return environments that choose.

    Args:
        stepped: the rows, compiled or side by side.
        environments: one, of which compiled rows are; or those that go side by side.
    """
    if isinstance(stepped, CompiledVecEnv):
        return ChoiceVecEnv(stepped, environments[0].schema, stepped.vector.action_masks)  # type: ignore[attr-defined]
    each = [DiscreteChoices(env) for env in environments]
    return ChoiceVecEnv(stepped, environments[0].schema, lambda: np.stack([env.action_masks() for env in each]))
