"""Fronts of controllers over preferences, and what the papers state of a system: quality at on-par latency, cloud cost at equal quality.

A controller has one operating point a preference: its means over links and loads. **Between** two points of a front lies what a random
mix of both gets, so fronts are read by straight lines; beyond its ends a front offers nothing better than its end. **Quality at
on-par latency**: the quality that the front of ours reaches within the baseline's seconds. **Cloud cost at equal quality**: the least
cloud seconds in which the front of ours reaches the baseline's quality. Both definitions are ours; each baseline is taken at the
first preference. What does not live here: the resampling (aggregates.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.aggregates import Means
from agents.comparison import Estimate

SYNERA_QUALITY = (1.20, 5.47)
"""Times the baselines' quality at on-par latency, as Synera's abstract states; other models, tasks and machines than ours."""
SYNERA_SAVED = (0.082, 0.165)
"""Share of the cloud cost saved, likewise."""


@dataclass(frozen=True)
class Points:
    """Operating points of a controller, one a preference, each resampled."""

    preferences: tuple[str, ...]
    costs: NDArray[np.float64]
    """[preferences, 1 + resamples]: what is to be small."""
    quality: NDArray[np.float64]
    """[preferences, 1 + resamples]."""


@dataclass(frozen=True)
class OnPar:
    """What the front of ours offers where a baseline is."""

    baseline: str
    kind: str | None
    """None is all kinds."""
    quality: Estimate
    """Of the baseline."""
    seconds: Estimate
    cloud_seconds: Estimate
    quality_ratio: Estimate | None
    """Ours within the baseline's seconds / the baseline's; None where ours has no point that is as fast, or the baseline scores 0."""
    saved_cloud: Estimate | None
    """1 - ours at the baseline's quality / the baseline's; None where ours never reaches it, or the baseline uses no cloud."""


def points_of(means: Means, name: str, cost: str, kind: str | None = None) -> Points | None:
    """Return the operating points of a controller; None where it kept too little to have them.

    Args:
        means: of the contest.
        name: of the controller.
        cost: the measure that is to be small, such as `seconds` or `cloud_seconds`.
        kind: of the prompts; None is all.
    """
    groups: dict[str, list[str]] = {}
    for scenario in means.contest.scenarios:
        groups.setdefault(scenario.preference, []).append(scenario.name)
    costs = [means.of(name, cost, scenarios, kind) for scenarios in groups.values()]
    quality = [means.of(name, "quality", scenarios, kind) for scenarios in groups.values()]
    known = [(c, q) for c, q in zip(costs, quality, strict=True) if c is not None and q is not None]
    if len(known) < len(groups):
        return None
    return Points(tuple(groups), np.array([c for c, _ in known]), np.array([q for _, q in known]))


def pareto(costs: Sequence[float] | NDArray[np.float64], quality: Sequence[float] | NDArray[np.float64]) -> list[int]:
    """Return the places of the points that no other beats, from the cheapest on: each dearer one is better."""
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -quality[i]))
    front: list[int] = []
    for i in order:
        if not front or quality[i] > quality[front[-1]]:
            front.append(i)
    return front


def quality_within(costs: NDArray[np.float64], quality: NDArray[np.float64], cost: float) -> float:
    """Return the quality that a front reaches within a cost; NaN where its cheapest point is dearer."""
    hull = _hull(costs, quality)
    x, y = costs[hull], quality[hull]
    return float("nan") if cost < x[0] else float(np.interp(cost, x, y))


def cost_of(costs: NDArray[np.float64], quality: NDArray[np.float64], wanted: float) -> float:
    """Return the least cost in which a front reaches a quality; NaN where it never does."""
    hull = _hull(costs, quality)
    x, y = costs[hull], quality[hull]
    return float("nan") if wanted > y[-1] else float(np.interp(wanted, y, x))


def _hull(costs: NDArray[np.float64], quality: NDArray[np.float64]) -> list[int]:
    """The points of a front that no mix of two others beats."""
    hull: list[int] = []
    for i in pareto(costs, quality):
        while len(hull) > 1 and _below(costs, quality, hull[-2], hull[-1], i):
            hull.pop()
        hull.append(i)
    return hull


def _below(costs: NDArray[np.float64], quality: NDArray[np.float64], left: int, middle: int, right: int) -> bool:
    rise = (quality[right] - quality[left]) * (costs[middle] - costs[left])
    return bool((quality[middle] - quality[left]) * (costs[right] - costs[left]) <= rise)


def on_par(means: Means, ours: str, baseline: str, kind: str | None = None) -> OnPar | None:
    """Hold the front of a controller against a baseline; None where one of them kept too little.

    An interval takes the resamples in which both figures exist; where they are fewer than nine in ten, there is no figure.
    """
    times, clouds = (points_of(means, ours, cost, kind) for cost in ("seconds", "cloud_seconds"))
    their_times, their_clouds = (points_of(means, baseline, cost, kind) for cost in ("seconds", "cloud_seconds"))
    if times is None or clouds is None or their_times is None or their_clouds is None:
        return None
    quality, seconds, cloud = their_times.quality[0], their_times.costs[0], their_clouds.costs[0]
    count = len(quality)
    at_par = np.array([quality_within(times.costs[:, r], times.quality[:, r], seconds[r]) for r in range(count)])
    dear = np.array([cost_of(clouds.costs[:, r], clouds.quality[:, r], quality[r]) for r in range(count)])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(quality > 0, at_par / quality, np.nan)
        saved = np.where(cloud > 0, 1 - dear / cloud, np.nan)
    theirs = (Estimate.of(series[0], series[1:]) for series in (quality, seconds, cloud))
    return OnPar(baseline, kind, next(theirs), next(theirs), next(theirs), _estimate(ratio), _estimate(saved))


def _estimate(series: NDArray[np.float64]) -> Estimate | None:
    known = series[1:][np.isfinite(series[1:])]
    if not np.isfinite(series[0]) or len(known) < 0.9 * (len(series) - 1):
        return None
    return Estimate.of(series[0], known)
