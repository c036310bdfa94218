"""A controller made ready to decide a session: with the schema that it was made for and what the user values.

The same object serves the environment, a deployment and a daemon. What does not live here: the session's loop
(runtime/policy.py) and the controllers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from agents.base import Controller
from synera_env import Preference, Schema


class ControllerPolicy:
    """Implements :class:`runtime.policy.Policy`; serves one answer at a time, controllers may be shared."""

    def __init__(self, controller: Controller, schema: Schema, preference: Preference | None = None) -> None:
        """Put the parts together.

        Args:
            controller: who decides.
            schema: what it sees and sets.
            preference: what it is told to value; None is the default.
        """
        self._controller, self._schema, self._preference = controller, schema, preference or Preference()
        self._state: Any = None
        self._start = np.ones(1, bool)

    @property
    def first_knobs(self) -> Any:
        """See :class:`runtime.policy.Policy`; the same for every controller."""
        return self._schema.first_knobs

    def begin(self, seed: int) -> None:
        """See :class:`runtime.policy.Policy`."""
        self._state, self._start = seed, np.ones(1, bool)

    def decide(self, point: Any, records: Sequence[Any]) -> Any:
        """See :class:`runtime.policy.Policy`; stochastic controllers take their most likely action."""
        observation = self._schema.encode(point, records, self._preference)
        action, self._state = self._controller.predict(observation, self._state, self._start, deterministic=True)
        self._start = np.zeros(1, bool)
        return self._schema.knobs(action)
