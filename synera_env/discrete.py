"""Discrete actions: a number chooses one of the schema's settings; for DQN-like agents, discrete SAC, and agents that take masks.

What does not live here: the settings (a schema's `choices`) and what cannot be done at a decision (its `impossible`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import RecordConstructorArgs
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.settings import shown, within
from synera_env.base import DecisionEnv, Observation


class DiscreteChoices(gym.ActionWrapper[Observation, np.int64, NDArray[np.float32]], RecordConstructorArgs):
    """The environment with `Discrete(n)` actions: action i is the setting `choices[i]` of the schema.

    For Synera with two exits these are 24: keep the chunk in hand or send it (0 .. 11, 12 .. 23), times how deep the next chunk is
    drafted (in whole, in whole with exits at margin 0.7, to the first exit), times 1, 2, 4 or 8 tokens of it. The table:
    `synera_env.synera_schema(exits=2).choice_table()`.

    `action_masks()` says which choices can be done at the decision point in hand, as sb3-contrib's maskable agents ask it: none
    that would send a chunk while the cloud is being left alone after a loss, or beyond `max_offload`. Choosing one all the same
    keeps the chunk.
    """

    def __init__(self, env: gym.Env[Any, Any], max_offload: float = 1.0) -> None:
        """See the class.

        Args:
            env: of any system whose schema has choices.
            max_offload: 0..1, a hard limit of every choice: of t chunks at most ceil(max_offload * t) are sent.

        Raises:
            SettingError: the environment has no schema, or the limit is out of range, or its system knows none.
        """
        within("max_offload", max_offload, 0.0, 1.0)
        decision = env.unwrapped
        if not isinstance(decision, DecisionEnv):
            raise SettingError(f"env={shown(type(decision).__name__)} has no schema whose choices could be taken")
        RecordConstructorArgs.__init__(self, max_offload=max_offload)
        gym.ActionWrapper.__init__(self, env)
        self._decision, schema = decision, decision.schema
        self.choices = schema.choices
        """By number."""
        if max_offload < 1.0:
            if "offload_budget" not in {row.name for row in schema.rows}:
                raise SettingError(f"max_offload={max_offload} limits nothing: {schema.system} has no knob offload_budget")
            self.choices = tuple(replace(each, offload_budget=min(each.offload_budget, max_offload)) for each in self.choices)
        self._actions = np.stack([schema.action(each) for each in self.choices])
        self.action_space = spaces.Discrete(len(self.choices))

    def action(self, action: np.int64) -> NDArray[np.float32]:
        """Return the Box action of a choice."""
        return self._actions[action]

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which choices can be done now, [choices]; all of them while no answer is under way."""
        point = self._decision.point
        if point is None:
            return np.ones(len(self.choices), bool)
        return np.array([not self._decision.schema.impossible(point, each) for each in self.choices])
