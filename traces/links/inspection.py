"""What a set of link traces holds, by family: how long, how fast, how often cut off, and what in it was not recorded.

What does not live here: how it is shown (scripts).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import ConfigDict

from traces.links.filling import filled_by_family
from traces.links.trace import SERIES, LinkTrace

_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class SeriesFigures:
    """One series of a family, over the time of all its traces."""

    mean: float
    p5: float
    p50: float
    p95: float
    zero: float
    """Share of the time at which it is 0; of a rate, an outage."""
    filled: list[str]
    """The rules that made it, where it was not recorded; empty where it was."""


@dataclass(frozen=True)
class FamilyFigures:
    """Links of one family."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    traces: int
    seconds: float
    shortest_seconds: float
    steps_seconds: list[float]
    """The steps that its traces have."""
    series: dict[str, SeriesFigures]
    """By name: rtt_ms, uplink_mbps, downlink_mbps."""


def figures_by_family(links: Iterable[LinkTrace]) -> dict[str, FamilyFigures]:
    """Return the figures of each family, by name."""
    families: dict[str, list[LinkTrace]] = {}
    for link in links:
        families.setdefault(link.family, []).append(link)
    return {family: _figures(families[family]) for family in sorted(families)}


def _figures(links: Sequence[LinkTrace]) -> FamilyFigures:
    rules = filled_by_family(links).get(links[0].family, {})
    seconds = [link.seconds for link in links]
    weights = np.concatenate([np.full(len(link.rtt_ms), link.step_seconds) for link in links])
    series = {}
    for name in SERIES:
        values = np.concatenate([getattr(link, name) for link in links])
        mean, zero = float(np.average(values, weights=weights)), float(np.average(values == 0, weights=weights))
        low, median, high = _quantiles(values, weights)
        series[name] = SeriesFigures(mean, low, median, high, zero, rules.get(name, []))
    steps = sorted({float(link.step_seconds) for link in links})
    return FamilyFigures(len(links), sum(seconds), min(seconds), steps, series)


def _quantiles(values: np.ndarray, weights: np.ndarray) -> list[float]:
    """The smallest values that at least so much of the time is not above."""
    order = np.argsort(values, kind="stable")
    passed = np.cumsum(weights[order])
    places = np.searchsorted(passed, np.array(_QUANTILES) * passed[-1] * (1 - 1e-12))
    return [float(values[order[place]]) for place in places]
