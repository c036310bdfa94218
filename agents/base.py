"""The one interface of every controller, rule or network: Stable-Baselines3's `predict`; and what some offer beside it."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from synera_env import Preference


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
            state: what the last call returned; at an episode's start None, or what a `Seeded` controller begins with.
            episode_start: bool [batch], True where an episode begins.
            deterministic: take the most likely action of a stochastic controller.

        Returns:
            The action, [knobs] or [batch, knobs], each entry in -1..1; and the next state.
        """
        ...


@runtime_checkable
class Seeded(Protocol):
    """A controller that draws, and whose draws are fixed by the seed of an episode."""

    def initial_state(self, seed: int) -> Any:
        """Return the state to hand to the first `predict` of an episode."""
        ...


@runtime_checkable
class Masked(Protocol):
    """A controller of so many choices that must be told which of them cannot be done (see sb3-contrib's `MaskablePPO`)."""

    def masks(self, point: Any) -> NDArray[np.bool_]:
        """Return which choices can be done at a decision point, bool [choices]."""
        ...

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.float32], Any]:
        """As of :class:`Controller`, with the masks of each row, bool [choices] or [batch, choices]."""
        ...


@runtime_checkable
class Limited(Protocol):
    """A controller that can serve some preferences and no others."""

    def serve(self, preference: Preference) -> None:
        """Do nothing for a preference that it can serve.

        Raises:
            BundleError: it was not trained for this one.
        """
        ...


@runtime_checkable
class Learner(Protocol):
    """A controller that learns while it answers, from what a device sees of each settled chunk."""

    def settled(self, record: Any, preference: Preference, state: Any) -> None:
        """Take note of how a decision turned out; called before the next one of the answer, so never of its last.

        Args:
            record: the system's own kind of `synera_env.StepRecord`: what it cost, what was committed. No score is in it.
            preference: what the answer is told to value.
            state: what the `predict` returned that made the decision.
        """
        ...
