"""Bounds of what can be had in a scenario, and which share of the way from a baseline to a bound a controller takes.

What does not live here: how a bound is found (agents/counterfactual/bound.py has the clairvoyant's; whoever has figures hands them in).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from agents.aggregates import Means
from agents.comparison import Estimate
from synera_env import EXACT, read_json

LEAST_GAP = 0.005
"""Of reward; where a bound is no farther from the baseline, there is no gap to close."""


@dataclass(frozen=True)
class Bounds:
    """Mean rewards that nobody can beat, by the bound's name (such as `clairvoyant` or `informed`) and the scenario's; a JSON file.

    Each is over the prompts of the evaluation, each counting once.
    """

    __pydantic_config__ = EXACT

    bounds: dict[str, dict[str, float]] = field(default_factory=dict)
    format_version: int = 1

    @classmethod
    def load(cls, path: str | Path) -> Bounds:
        """Read a file of bounds.

        Raises:
            TraceError: it is missing, or not one; names the field that is wrong.
        """
        return read_json(path, cls, f"no bounds at {path}")


@dataclass(frozen=True)
class Closed:
    """A controller's share of the gap to a bound, over the scenarios for which the bound is known."""

    controller: str
    bound: str
    share: Estimate | None
    """(ours - baseline) / (bound - baseline), of sums over scenarios; None where there is no gap, or too little was kept."""
    scenarios: int


def closed(means: Means, bounds: Bounds, baseline: str, controllers: tuple[str, ...]) -> tuple[Closed, ...]:
    """Return which share of each gap each controller closes.

    Args:
        means: of the contest.
        bounds: known ones; a scenario that is not in the contest is left out.
        baseline: where the gap begins.
        controllers: whose shares.
    """
    names = [scenario.name for scenario in means.contest.scenarios]
    found = []
    for bound, values in bounds.bounds.items():
        known = [name for name in names if name in values]
        for controller in controllers:
            found.append(Closed(controller, bound, _share(means, values, known, baseline, controller), len(known)))
    return tuple(found)


def _share(means: Means, values: Mapping[str, float], known: list[str], baseline: str, controller: str) -> Estimate | None:
    if not known:
        return None
    ours, start = means.of(controller, scenarios=known), means.of(baseline, scenarios=known, side=2)
    if ours is None or start is None:
        return None
    # The bound is a figure of the prompts as they are: it moves with them as the baseline does, so the gap stays what it is.
    gap = float(np.mean([values[name] for name in known])) - start[0]
    if gap < LEAST_GAP:
        return None
    shares = (ours - start) / gap
    return Estimate.of(shares[0], shares[1:])
