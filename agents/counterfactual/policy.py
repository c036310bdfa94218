"""The policy: a network that gives each action of the process a weight, and the controller that takes the heaviest.

What does not live here: what the actions are (synera_env/synera/decisions), how it is trained (learning.py), and bundles (agents/export.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from agents.bundle import Seen
from agents.scaling import Scaling
from synera_env import Schema
from synera_env.synera.decisions.process import Actions

_SHARPNESS = 1e-6
"""Weights that differ by more than twenty times this are told apart wholly."""
_CHUNK = 65_536  # observations at a time


class ChoiceNet(torch.nn.Module):
    """Raw observations to the weights of the actions (logits)."""

    def __init__(self, schema: Schema, actions: int, hidden: int) -> None:
        super().__init__()
        space: spaces.Box = schema.observation_space
        self.scaling = Scaling(space, schema.center, schema.scale)
        head = torch.nn.Linear(hidden, actions)
        with torch.no_grad():
            head.weight.mul_(0.01)  # all actions alike, to begin with
            head.bias.zero_()
        first, second = torch.nn.Linear(len(schema.low), hidden), torch.nn.Linear(hidden, hidden)
        self.body = torch.nn.Sequential(first, torch.nn.Tanh(), second, torch.nn.Tanh(), head)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """[batch, entries] to [batch, actions]."""
        return self.body(self.scaling(observation))

    @property
    def seen(self) -> Seen:
        """What it was told that training has met."""
        return Seen(tuple(self.scaling.low.tolist()), tuple(self.scaling.high.tolist()))

    def saw(self, observations: NDArray[np.float32], *, first: bool = False) -> None:
        """Widen what training has met by observations, [batch, entries]; the first are all that was met."""
        low, high = observations.min(0), observations.max(0)
        if not first:
            low, high = np.minimum(low, self.scaling.low.numpy()), np.maximum(high, self.scaling.high.numpy())
        self.scaling.has_seen(low, high)

    def probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return those of all actions, [batch, actions], without a gradient."""
        with torch.no_grad():
            parts = [
                torch.softmax(self(torch.from_numpy(part)), -1) for part in np.split(observations, _cuts(len(observations)))
            ]
        return torch.cat(parts).numpy()


def _cuts(count: int) -> list[int]:
    return list(range(_CHUNK, count, _CHUNK))


class Chooser(torch.nn.Module):
    """Raw observations to the knobs, as a Box action, of the heaviest action; of operators that a bundle's policy may have."""

    def __init__(self, net: ChoiceNet, actions: NDArray[np.float32]) -> None:
        """See the class.

        Args:
            net: the policy.
            actions: [actions, knobs].
        """
        super().__init__()
        self.net = net
        self.table = torch.nn.Linear(*actions.shape)
        self.table.requires_grad_(False)
        self.table.weight.copy_(torch.from_numpy(actions.T.copy()))
        self.table.bias.zero_()

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """[batch, entries] to [batch, knobs]."""
        return self.table(torch.softmax(self.net(observation) / _SHARPNESS, -1))


class ChoiceController:
    """The policy as a controller; implements :class:`agents.base.Controller`."""

    def __init__(self, net: ChoiceNet, actions: Actions, schema: Schema) -> None:
        self.module = Chooser(net, actions.matrix(schema))
        """What a bundle has as ONNX."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`; always the heaviest action."""
        with torch.no_grad():
            found = self.module(torch.from_numpy(np.atleast_2d(np.asarray(observation, np.float32)))).numpy()
        found = np.clip(found, -1.0, 1.0)
        return (found if np.ndim(observation) > 1 else found[0]), state
