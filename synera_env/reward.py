"""The reward and the preference weights it is made of; nothing else.

Following the papers only in what is traded (quality, latency, cloud cost); the formula and the default weights are ours.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields

import numpy as np

from runtime.session import Cost


@dataclass(frozen=True)
class Preference:
    """What one unit of each term is worth; observed by the controller."""

    quality: float = 1.0
    """By task score, 0..1, paid when the answer is complete."""
    latency: float = 0.1
    """By second of the answer."""
    cost: float = 2.0
    """By second of cloud compute used."""
    energy: float = 0.005
    """By joule of the device."""
    traffic: float = 0.1
    """By megabyte, up and down."""

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"preference weight {f.name}={value} must be a number that is not negative")

    @classmethod
    def sample(cls, rng: np.random.Generator, spread: float = 3.0) -> Preference:
        """Draw a preference: each cost weight is its default times or divided by up to `spread`, log-uniformly."""
        base = np.array(astuple(cls()))
        factors = np.exp(rng.uniform(-math.log(spread), math.log(spread), len(base)))
        factors[0] = 1.0  # quality is the unit of account
        return cls(*(float(x) for x in base * factors))


def reward_terms(cost: Cost, quality: float, preference: Preference) -> dict[str, float]:
    """Return the terms of one step's reward; the reward is their sum.

    Args:
        cost: of the step.
        quality: what the answer's quality changed by: its task score at the last step, 0 before.
        preference: the weights.
    """
    return {
        "quality": preference.quality * quality,
        "latency": -preference.latency * cost.seconds,
        "cost": -preference.cost * cost.cloud_seconds,
        "energy": -preference.energy * cost.joules,
        "traffic": -preference.traffic * (cost.uplink_bytes + cost.downlink_bytes) / 1e6,
    }
