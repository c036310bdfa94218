"""Policies that choose one of so many settings: the network scores them all, and the best that can be done is taken.

What does not live here: the settings of a system (its schema's `choices`), the network's file (onnx_policy.py), and the bundle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.errors import BundleError
from agents.onnx_policy import OnnxPolicy, State
from runtime.errors import SettingError
from runtime.settings import shown
from synera_env import Schema

Stated = dict[str, int | float]
"""Knobs by name, as a bundle states them."""


def state_choices(choices: Sequence[Any], schema: Schema) -> tuple[Stated, ...]:
    """Return settings as plain data, knob by knob; whole numbers that count from the end are stated from the start."""

    def stated(setting: Any) -> Stated:
        values = {row: getattr(setting, row.name) for row in schema.rows}
        return {row.name: row.value(row.share(value)) if row.integer else value for row, value in values.items()}

    return tuple(map(stated, choices))


def read_choices(stated: Sequence[Mapping[str, int | float]], schema: Schema) -> tuple[Any, ...]:
    """Return the settings that were stated.

    Raises:
        SettingError: one is none of the schema.
    """
    names = [row.name for row in schema.rows]
    found = []
    for number, each in enumerate(stated):
        if sorted(each) != sorted(names):
            raise SettingError(f"choice {number} sets {shown(sorted(each))}, it must set {', '.join(names)}")
        for row in schema.rows:
            value = each[row.name]
            if not row.low <= value <= row.high or (row.integer and not isinstance(value, int)):
                raise SettingError(
                    f"choice {number}: {row.name}={shown(value)} must be in {row.low:g}..{row.high:g}"
                    + (", a whole number" if row.integer else "")
                )
        found.append(replace(schema.first_knobs, **each))
    return tuple(found)


def possible(choices: Sequence[Any], schema: Schema, point: Any) -> NDArray[np.bool_]:
    """Return which settings can be done at a decision point, [choices]."""
    return np.array([not schema.impossible(point, each) for each in choices])


def allowed(scores: NDArray[np.floating], action_masks: NDArray[np.bool_] | None) -> NDArray[np.floating]:
    """Return scores, [batch, choices], with those that cannot be done at minus infinity.

    Args:
        scores: the higher, the better.
        action_masks: bool [choices] or [batch, choices], True where a choice can be done; None is everywhere.
    """
    return scores if action_masks is None else np.where(np.asarray(action_masks, bool), scores, -np.inf)


class OnnxChooser(OnnxPolicy):
    """A policy whose network scores choices; implements :class:`agents.base.Controller`. Thread-safe.

    The first of those that score best is taken, as stable-baselines3 does.
    """

    def __init__(
        self, content: bytes, entries: int, choices: Sequence[Any], schema: Schema, name: str, state: Sequence[int] = ()
    ) -> None:
        """See :class:`agents.onnx_policy.OnnxPolicy`, whose outputs are the scores of `choices`, settings of `schema`."""
        super().__init__(content, entries, len(choices), name, state)
        self.choices, self.schema = tuple(choices), schema
        self.actions = np.stack([schema.action(each) for each in choices])
        """Of each choice, [choices, knobs]."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`; always the best choice.

        Raises:
            BundleError: see :meth:`agents.onnx_policy.OnnxPolicy.run`.
        """
        return self._chosen(observation, state, episode_start, None)

    def _chosen(
        self, observation: Any, state: State | None, start: NDArray[np.bool_] | None, masks: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.float32], Any]:
        scores, state = self.run(observation, state, start)
        actions = self.actions[allowed(scores, masks).argmax(-1)]
        return (actions if np.ndim(observation) > 1 else actions[0]), state


class OnnxMaskedChooser(OnnxChooser):
    """A policy that must be told which choices cannot be done; implements :class:`agents.base.Masked`. Thread-safe."""

    def masks(self, point: Any) -> NDArray[np.bool_]:
        """See :class:`agents.base.Masked`."""
        return possible(self.choices, self.schema, point)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: NDArray[np.bool_] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Masked`; always the best choice of those that can be done.

        Raises:
            BundleError: there are no masks, or see :meth:`agents.onnx_policy.OnnxPolicy.run`.
        """
        if action_masks is None or not np.any(action_masks, axis=-1).all():
            raise BundleError(
                f"bundle {self.name!r} was trained with masks, and was {'handed none' if action_masks is None else 'left no choice'}; "
                "hand predict the action_masks that its masks(decision point) gives"
            )
        return self._chosen(observation, state, episode_start, action_masks)
