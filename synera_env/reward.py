"""The reward and the preference weights it is made of; nothing else.

Following the papers only in what is traded (quality, latency, cloud cost); the formula and the default weights are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.session import Cost
from runtime.settings import one_of, shown, within
from synera_env import chance

TERMS = ("quality", "latency", "cost", "energy", "traffic")
"""Of the reward; a preference has a weight for each, of the same name."""
SPREAD = 3.0
"""A weight is drawn up to so many times its default, or that divided by it."""


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

    @property
    def weights(self) -> tuple[float, float, float, float, float]:
        """In the order of :data:`TERMS`."""
        return self.quality, self.latency, self.cost, self.energy, self.traffic

    @classmethod
    def sample(cls, seed: int, spread: float = SPREAD) -> Preference:
        """Draw the preference of an answer: each cost weight is its default times or divided by up to `spread`, log-uniformly."""
        quality, *costs = cls().weights  # quality is the unit of account
        drawn = (chance.uniform(seed, chance.WEIGHT, number) for number in range(1, 1 + len(costs)))
        return cls(quality, *(weight(base, each, spread) for base, each in zip(costs, drawn, strict=True)))


Prefer = Literal["balanced", "quality", "speed", "cost", "energy", "traffic"]
"""Names of preferences."""


def named_preferences() -> Mapping[str, Preference]:
    """Return the preferences that have a name, in the order of :data:`Prefer`; the names and weights are ours.

    `balanced` has the default weights. `speed`, `cost`, `energy` and `traffic` have :data:`SPREAD` times the default for seconds,
    cloud seconds, joules and megabytes. `quality`, the unit of account, has all these divided by it. So each lies at an end of
    what :meth:`Preference.sample` draws, and a controller that was trained on that can serve it.
    """
    base = Preference()
    ends = {"latency": "speed", "cost": "cost", "energy": "energy", "traffic": "traffic"}
    raised = {name: replace(base, **{term: getattr(base, term) * SPREAD}) for term, name in ends.items()}
    quality, *costs = base.weights
    named = {"balanced": base, "quality": Preference(quality, *(each / SPREAD for each in costs)), **raised}
    return {name: named[name] for name in get_args(Prefer)}


def chosen_preference(prefer: str, explicit: Preference) -> Preference:
    """Return what a user asks for who may name a preference or state the weights, and leaves the other at its default.

    Raises:
        SettingError: there is no preference of this name, or both were given.
    """
    one_of("prefer", prefer, tuple(named_preferences()))
    if prefer != "balanced" and explicit != Preference():
        raise SettingError(f"prefer={prefer} and weights of a preference both say what is valued; give one of them")
    return explicit if prefer == "balanced" else named_preferences()[prefer]


Trained = Literal["default", "sampled", "quality", "speed", "cost", "energy", "traffic"]
"""What a controller can be trained for: the default weights, which are those of `balanced`; any, drawn for each answer; or one of
:data:`Prefer`."""


def trained_for(preference: str) -> Preference | None:
    """Return the weights of all answers of a training; None where each answer's are drawn.

    Raises:
        SettingError: it is not one of :data:`Trained`.
    """
    one_of("preference", preference, get_args(Trained))
    return None if preference == "sampled" else named_preferences()["balanced" if preference == "default" else preference]


def weight(base: float, uniform: float, spread: float) -> float:
    """Return a weight around its default, log-uniformly."""
    return base * math.exp((2.0 * uniform - 1.0) * math.log(spread))


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
    def of(cls, preference: Preference | None, spread: float = SPREAD) -> PreferenceRange:
        """Return the one preference, or for None the range of :meth:`Preference.sample`."""
        if preference is not None:
            return cls(preference, preference)
        quality, *costs = Preference().weights
        return cls(
            Preference(quality, *(base / spread for base in costs)), Preference(quality, *(base * spread for base in costs))
        )

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
    return dict(zip(TERMS, priced(quality, *_of(cost), *preference.weights), strict=True))


def objectives(cost: Cost, quality: float) -> NDArray[np.float64]:
    """Return what one step came to in each term, unweighted, [5] in the order of the terms; what is paid has a minus.

    Args:
        cost: of the step.
        quality: see :func:`reward_terms`.
    """
    return np.array(priced(quality, *_of(cost), 1.0, 1.0, 1.0, 1.0, 1.0))


def _of(cost: Cost) -> tuple[float, float, float, int]:
    return cost.seconds, cost.cloud_seconds, cost.joules, cost.uplink_bytes + cost.downlink_bytes


def priced(
    quality: float,
    seconds: float,
    cloud_seconds: float,
    joules: float,
    traffic_bytes: int,
    per_quality: float,
    per_second: float,
    per_cloud_second: float,
    per_joule: float,
    per_megabyte: float,
) -> tuple[float, float, float, float, float]:
    """Return the terms of one step's reward, in the order of :data:`TERMS`, by what it came to and the preference's weights."""
    return (
        per_quality * quality,
        -per_second * seconds,
        -per_cloud_second * cloud_seconds,
        -per_joule * joules,
        -per_megabyte * traffic_bytes / 1e6,
    )
