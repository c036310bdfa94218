"""The one interface of every controller, rule or network: Stable-Baselines3's `predict`."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Controller(Protocol):
    """Maps observations to actions (see `stable_baselines3.common.type_aliases.PolicyPredictor`)."""

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[NDArray[np.float32], Any]:
        """Choose an action of the schema that the controller was made for.

        Args:
            observation: float32 [entries] or [batch, entries], as `synera_env.Schema.encode` makes it.
            state: what the last call returned; at an episode's start None or the episode's seed.
            episode_start: bool [batch], True where an episode begins.
            deterministic: take the most likely action of a stochastic controller.

        Returns:
            The action, [knobs] or [batch, knobs], each entry in -1..1; and the next state.
        """
        ...
