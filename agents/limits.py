"""A hard limit on what any controller may send: of the first t chunks of an answer at most `ceil(share * t)`, for every t.

What does not live here: the rule that a runtime keeps to (`offload_budget` in runtime/rules.py), and controllers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Controller, Learner, Limited, Masked, Seeded
from runtime.errors import SettingError
from runtime.settings import within
from synera_env import Preference, Schema

BUDGET = "offload_budget"
"""The knob that holds the limit in every world."""
NO_LIMIT = 1.0


class Capped:
    """A controller whose budget never exceeds a share; what it looks at, remembers and draws is its own.

    Implements :class:`agents.base.Controller`, and :class:`agents.base.Seeded` and :class:`agents.base.Limited` where the controller does.
    """

    def __init__(self, controller: Controller, schema: Schema, share: float) -> None:
        """See :func:`capped`."""
        self.controller, self.share = controller, share
        self._place, self._most = _highest(schema, share)

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`."""
        action, state = self.controller.predict(observation, state, episode_start, deterministic)
        return self._within(action), state

    def _within(self, action: NDArray[np.float32]) -> NDArray[np.float32]:
        action = np.array(action, np.float32)
        action[..., self._place] = np.minimum(action[..., self._place], self._most)
        return action

    def initial_state(self, seed: int) -> Any:
        """See :class:`agents.base.Seeded`; None, as at any start, for a controller that draws nothing."""
        return self.controller.initial_state(seed) if isinstance(self.controller, Seeded) else None

    def serve(self, preference: Preference) -> None:
        """See :class:`agents.base.Limited`."""
        if isinstance(self.controller, Limited):
            self.controller.serve(preference)


class CappedLearner(Capped):
    """The same of a controller that learns while it answers; implements :class:`agents.base.Learner`."""

    def settled(self, record: Any, preference: Preference, state: Any) -> None:
        """See :class:`agents.base.Learner`."""
        assert isinstance(self.controller, Learner)
        self.controller.settled(record, preference, state)


class CappedMasked(Capped):
    """The same of a controller that is told what cannot be done; implements :class:`agents.base.Masked`."""

    def masks(self, point: Any) -> NDArray[np.bool_]:
        """See :class:`agents.base.Masked`."""
        assert isinstance(self.controller, Masked)
        return self.controller.masks(point)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Masked`."""
        assert isinstance(self.controller, Masked)
        action, state = self.controller.predict(observation, state, episode_start, deterministic, action_masks)
        return self._within(action), state


def capped(controller: Controller, schema: Schema, share: float = NO_LIMIT) -> Controller:
    """Return a controller that sends at most so many of its chunks, at every chunk of every answer, in any world.

    Args:
        controller: a rule, a bundle's or a user's own.
        schema: that it was made for.
        share: 0..1; at 1 there is no limit, and the controller is returned as it is.

    Raises:
        SettingError: the share is outside 0..1, or the system has no budget to hold it.
    """
    check_limit(share)
    if share >= NO_LIMIT:
        return controller
    if isinstance(controller, Masked):
        return CappedMasked(controller, schema, share)
    return (CappedLearner if isinstance(controller, Learner) else Capped)(controller, schema, share)


def check_limit(share: float) -> None:
    """Refuse a share that is none.

    Raises:
        SettingError: it is outside 0..1.
    """
    within("max_offload", share, 0.0, NO_LIMIT)


def _highest(schema: Schema, share: float) -> tuple[int, np.float32]:
    """Place of the budget in an action, and the highest entry whose budget is not above the share.

    Rounded up, as 0.7 is in float32, a budget would let one chunk too many pass wherever share * t is whole.
    """
    names = [row.name for row in schema.rows]
    if BUDGET not in names:
        raise SettingError(f"the system {schema.system} has no {BUDGET}, so max_offload={share:g} cannot be held in it")
    place = names.index(BUDGET)
    action = schema.action(schema.knobs(np.zeros(len(names), np.float32)))
    entry = np.float32(2.0 * share - 1.0)
    while True:
        action[place] = entry
        if getattr(schema.knobs(action), BUDGET) <= share or entry <= -1.0:
            return place, entry
        entry = np.nextafter(entry, np.float32(-1.0))
