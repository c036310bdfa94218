"""A controller made ready to decide a session: with the schema that it was made for and what the user values.

The same object serves the environment, a deployment and a daemon. What does not live here: the session's loop
(runtime/policy.py) and the controllers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Controller, Learner, Limited, Masked, Seeded
from synera_env import Preference, Schema, SettingError


class ControllerPolicy:
    """Implements :class:`runtime.policy.Policy`; serves one answer at a time, controllers may be shared."""

    def __init__(self, controller: Controller, schema: Schema, preference: Preference | None = None) -> None:
        """Put the parts together.

        Args:
            controller: who decides.
            schema: what it sees and sets.
            preference: what it is told to value; None is the default.

        Raises:
            BundleError: the controller was not trained for the preference.
        """
        self._controller, self._schema, self._preference = controller, schema, preference or Preference()
        if isinstance(controller, Limited):
            controller.serve(self._preference)
        self._masked = controller if isinstance(controller, Masked) else None
        self.begin(0)

    @property
    def first_knobs(self) -> Any:
        """See :class:`runtime.policy.Policy`; the same for every controller."""
        return self._schema.first_knobs

    def begin(self, seed: int) -> None:
        """See :class:`runtime.policy.Policy`."""
        self._state = self._controller.initial_state(seed) if isinstance(self._controller, Seeded) else None
        self._start = np.ones(1, bool)

    def act(self, observation: NDArray[np.float32], point: Any = None) -> NDArray[np.float32]:
        """Return the action for the next observation of the answer; stochastic controllers take their most likely one.

        Args:
            observation: float32 [entries].
            point: the decision point that it shows, for controllers that are told what cannot be done there.

        Raises:
            SettingError: such a controller is given no point.
        """
        if self._masked is None:
            action, self._state = self._controller.predict(observation, self._state, self._start, deterministic=True)
        elif point is None:
            raise SettingError("this controller must be told what cannot be done: hand act the decision point, too")
        else:
            masks = self._masked.masks(point)
            action, self._state = self._masked.predict(observation, self._state, self._start, True, masks)
        self._start = np.zeros(1, bool)
        return action

    def decide(self, point: Any, records: Sequence[Any]) -> Any:
        """See :class:`runtime.policy.Policy`."""
        if records and isinstance(self._controller, Learner):
            self._controller.settled(records[-1], self._preference, self._state)
        return self._schema.knobs(self.act(self._schema.encode(point, records, self._preference), point))
