"""First-class baselines: rules that set the same knobs at every decision, and a random one.

What does not live here: which settings have a name (a schema's presets) and the search for the best one (search.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from synera_env import Schema


class FixedRule:
    """The same knobs at every decision; looks at nothing."""

    def __init__(self, knobs: Any, schema: Schema) -> None:
        self.knobs = knobs
        self._action = schema.action(knobs)

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`."""
        return np.broadcast_to(self._action, (*np.shape(observation)[:-1], len(self._action))).copy(), state


class RandomRule:
    """Uniform actions, fixed by the seed of the episode; implements :class:`agents.base.Seeded`."""

    def __init__(self, schema: Schema, seed: int = 0) -> None:
        self._size, self._seed = len(schema.rows), seed

    def initial_state(self, seed: int) -> np.random.Generator:
        """See :class:`agents.base.Seeded`."""
        return np.random.default_rng([self._seed, seed])

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`; without a state, as in an episode of seed 0."""
        rng = self.initial_state(0) if state is None else state
        return rng.uniform(-1, 1, (*np.shape(observation)[:-1], self._size)).astype(np.float32), rng
