"""An exported policy held against the policy as it was trained, on decisions that the latter makes in its own environment.

What does not live here: how the policy was exported (export.py), and the environment (user_env.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from agents.bundle import PARITY_LIMIT, Parity
from agents.choices import OnnxChooser, allowed
from agents.errors import BundleError
from agents.running import Running
from agents.user_env import UserEnv
from synera_env import SettingError

SAMPLES = 256
"""Decisions of the check."""


class Predictor(Protocol):
    """As `stable_baselines3.common.type_aliases.PolicyPredictor`; with masks where the policy takes them."""

    def predict(self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False) -> Any:
        """Choose an action, or the number of a choice."""
        ...


class Met(NamedTuple):
    """A decision that the policy made as it was trained."""

    observation: NDArray[np.float32]
    """What the environment of ours showed, before anything was done to it."""
    start: bool
    """Whether it was the first of its answer."""
    masks: NDArray[np.bool_] | None
    chosen: Any
    """What the policy said: an action, or the number of a choice."""
    action: NDArray[np.float32]
    """What came to the environment of ours."""


def meet(user: UserEnv, predictor: Predictor, masked: bool, samples: int) -> list[Met]:
    """Let the policy decide answers as it was trained to, and write down what it met.

    Raises:
        SettingError: a wrapper changes what is shown, or what a choice is.
    """
    met: list[Met] = []
    with user.tapped() as (env, tap):
        seed = 0
        while len(met) < samples:
            observation, _ = env.reset(seed=seed)
            state, start, done, seed = None, True, False, seed + 1
            while not done and len(met) < samples:
                if not np.array_equal(observation, raw := tap.observation):
                    raise SettingError(f"env does not show what the environment in it shows: {_blamed(user)}")
                masks = env.get_wrapper_attr("action_masks")() if masked else None
                more = {} if masks is None else {"action_masks": masks}
                chosen, state = predictor.predict(user.shown(observation), state, np.array([start]), deterministic=True, **more)
                observation, _, terminated, truncated, _ = env.step(chosen)
                if user.choices is not None and (tap.action != user.choices.action(chosen)).any():
                    raise SettingError(f"a choice is not what env makes of it: {_blamed(user)}")
                met.append(Met(raw, start, masks, chosen, np.clip(tap.action, -1.0, 1.0)))
                start, done = False, terminated or truncated
    return met


def _blamed(user: UserEnv) -> str:
    return f"one of its wrappers ({', '.join(user.names)}) changes it, and cannot be exported; train without it"


def held_against(exported: Running, met: Sequence[Met]) -> Parity:
    """Hold the exported policy against the trained one: each decision in its place in its answer, and all of them as a batch.

    Args:
        exported: as it will be deployed.
        met: decisions of the trained one, answer by answer.

    Raises:
        BundleError: they differ.
    """
    outputs: list[NDArray[np.float32]] = []
    states: list[Any] = []
    state = None
    for each in met:
        states.append(state)
        found, state = exported.run(each.observation, state, np.array([each.start]))
        outputs.append(found[0])
    made = np.stack(outputs)
    _check_batch(exported, met, states, made)
    if not isinstance(exported, OnnxChooser):
        return Parity.of(np.clip(made, -1.0, 1.0), np.stack([each.action for each in met]))
    chosen = np.array([int(each.chosen) for each in met])
    masked = [each.masks for each in met if each.masks is not None]
    scores = allowed(made, np.stack(masked) if masked else None)
    size = np.maximum(1.0, np.abs(made).max(-1))
    return Parity.of(scores.max(-1) / size, scores[np.arange(len(met)), chosen] / size)


def _check_batch(exported: Running, met: Sequence[Met], states: Sequence[Any], made: NDArray[np.float32]) -> None:
    """Decisions of a batch are those of each row by itself; states are handed over as they lie, also from an answer's end."""
    carried = None
    if states[-1] is not None:
        first = tuple(np.zeros_like(each) for each in states[-1])
        carried = tuple(
            np.concatenate(parts) for parts in zip(*(first if each is None else each for each in states), strict=True)
        )
    starts = np.array([each.start for each in met])
    together, _ = exported.run(np.stack([each.observation for each in met]), carried, starts)
    if not (difference := np.abs(together - made).max() / max(1.0, np.abs(made).max())) <= PARITY_LIMIT:
        raise BundleError(f"the exported policy decides rows of a batch otherwise than each by itself, by {difference:.2e}")
