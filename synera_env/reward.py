"""The reward and the preference weights it is made of; nothing else.

Following the papers only in what is traded (quality, latency, cloud cost); the formula and the default weights are ours.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.session import Cost
from runtime.settings import shown, within


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
            within(f"preference weight {f.name}", getattr(self, f.name), 0.0)

    @classmethod
    def sample(cls, rng: np.random.Generator, spread: float = 3.0) -> Preference:
        """Draw a preference: each cost weight is its default times or divided by up to `spread`, log-uniformly."""
        base = np.array(astuple(cls()))
        factors = np.exp(rng.uniform(-math.log(spread), math.log(spread), len(base)))
        factors[0] = 1.0  # quality is the unit of account
        return cls(*(float(x) for x in base * factors))


@dataclass(frozen=True)
class PreferenceRange:
    """The preferences that episodes are drawn from, weight by weight: what a controller can have learned to serve."""

    low: Preference
    high: Preference

    def __post_init__(self) -> None:
        for name, end in (("low", self.low), ("high", self.high)):
            if not isinstance(end, Preference):
                raise SettingError(f"{name}={shown(end)} of a range of preferences must be a Preference")
        for f in fields(Preference):
            low, high = getattr(self.low, f.name), getattr(self.high, f.name)
            if low > high:
                raise SettingError(f"preference weight {f.name} ranges from {low:g} to {high:g}; it must not fall")

    @classmethod
    def of(cls, preference: Preference | None, spread: float = 3.0) -> PreferenceRange:
        """Return the one preference, or for None the range of :meth:`Preference.sample`."""
        if preference is not None:
            return cls(preference, preference)
        base = np.array(astuple(Preference()))
        factors = np.array([1.0, *[spread] * (len(base) - 1)])
        return cls(Preference(*(base / factors).tolist()), Preference(*(base * factors).tolist()))

    def outside(self, preference: Preference) -> str:
        """Say which weight of a preference is outside the range; empty when none is."""
        for f in fields(Preference):
            low, value, high = (getattr(p, f.name) for p in (self.low, preference, self.high))
            # Weights that were written to a file and read again may differ in their last digits.
            if not low * (1 - 1e-6) <= value <= high * (1 + 1e-6):
                return f"{f.name}={value:g}, outside {low:g}..{high:g}" if low < high else f"{f.name}={value:g}, not {low:g}"
        return ""


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


def objectives(cost: Cost, quality: float) -> NDArray[np.float64]:
    """Return what one step came to in each term, unweighted, [5] in the order of the terms; what is paid has a minus.

    Args:
        cost: of the step.
        quality: see :func:`reward_terms`.
    """
    traffic = (cost.uplink_bytes + cost.downlink_bytes) / 1e6
    return np.array((quality, -cost.seconds, -cost.cloud_seconds, -cost.joules, -traffic))
