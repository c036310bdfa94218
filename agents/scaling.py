"""How a network is shown an observation: inside the policy itself, so that whoever runs the policy hands it raw observations.

What does not live here: the scales (a schema's rows).
"""

from __future__ import annotations

import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

CLIP = 10.0
"""Most that a network is shown, either way."""


class Scaling(BaseFeaturesExtractor):
    """Features extractor of stable-baselines3: each entry from its center, by its scale; both fixed, as the schema states them.

    An entry outside of what training has met is shown as the nearest value that it has, so that the network never
    extrapolates. Until :meth:`has_seen` says what was met, that is anything.
    """

    low: torch.Tensor
    high: torch.Tensor
    center: torch.Tensor
    scale: torch.Tensor

    def __init__(self, observation_space: spaces.Box, center: NDArray, scale: NDArray) -> None:
        """See the class.

        Args:
            observation_space: float32 [entries].
            center: [entries].
            scale: [entries], above 0.
        """
        super().__init__(observation_space, len(center))
        stated = {"low": observation_space.low, "high": observation_space.high, "center": center, "scale": scale}
        for name, values in stated.items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def has_seen(self, low: NDArray, high: NDArray) -> None:
        """State what training has met, entry by entry: [entries] each."""
        self.low.copy_(torch.as_tensor(low))
        self.high.copy_(torch.as_tensor(high))

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """[batch, entries] to [batch, entries]."""
        shown = torch.clamp(observation, self.low, self.high)
        return shown.sub_(self.center).div_(self.scale).clamp_(-CLIP, CLIP)  # in its own memory: to be given more takes longer
