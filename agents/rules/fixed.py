"""Rules that look at nothing: the same knobs at every decision, and uniform chance.

What does not live here: which settings have a name (a schema's presets) and the search for the best one (agents/search.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError
from synera_env import EXACT, Knobs, Schema


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


@dataclass(frozen=True)
class Fixed:
    """Knobs that were found by a search, as plain data."""

    __pydantic_config__ = EXACT

    knobs: Knobs
    kind: Literal["fixed"] = "fixed"

    def controller(self, schema: Schema) -> FixedRule:
        """Make it act."""
        return FixedRule(self.knobs, schema)


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


def keep_and_offload(schema: Schema) -> NDArray[np.float32]:
    """Two actions, [2, knobs]: that of the preset never, and that of always.

    Raises:
        SettingError: the system has no chunks to keep or to offload.
    """
    return np.stack([schema.action(knobs_of(schema, name)) for name in ("never", "always")])


def knobs_of(schema: Schema, preset: str, **knobs: float) -> Any:
    """Return a preset with some knobs set.

    Raises:
        SettingError: the system has no such preset, or none of a knob.
    """
    missing = sorted({*knobs} - {row.name for row in schema.rows})
    if preset not in schema.presets or missing:
        raise SettingError(f"the system {schema.system} has no {', '.join(missing) or preset}, so this rule cannot act in it")
    return replace(schema.presets[preset], **knobs)
