"""Bounds of what can be had in a scenario, and which share of the way from a baseline to a bound a controller takes.

What does not live here: how a bound is found (agents/counterfactual/scales.py; whoever has figures may hand them in).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agents.comparison import Estimate
from agents.evaluation import PlannedAnswer
from runtime.settings import shown
from synera_env import EXACT, DecisionEnv, SettingError, SyneraReplayEnv, read_json, write_json

if TYPE_CHECKING:
    from agents.aggregates import Means

LEAST_GAP = 0.005
"""Of reward; where a bound is no farther from the baseline, there is no gap to close."""
VALIDATION = "validation"
"""In place of a scenario: the answers by which a training is judged."""


@dataclass(frozen=True)
class Bounds:
    """Mean rewards that nobody can beat, by the bound's name (such as `clairvoyant` or `informed`) and the scenario's; a JSON file.

    Each is over the prompts of the evaluation, each counting once; of `validation`, over the answers of a training's validation.
    """

    __pydantic_config__ = EXACT

    bounds: dict[str, dict[str, float]] = field(default_factory=dict)
    plans: dict[str, str] = field(default_factory=dict)
    """By scenario, :func:`plan_hash` of the answers that its bounds are of; where none is stated, they are taken at their word."""
    made: dict[str, Any] = field(default_factory=dict)
    """How they were found, for whoever reads the file."""
    format_version: int = 1

    @classmethod
    def load(cls, path: str | Path) -> Bounds:
        """Read a file of bounds.

        Raises:
            TraceError: it is missing, or not one; names the field that is wrong.
        """
        return read_json(path, cls, f"no bounds at {path}; synera bounds makes them")

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            TraceError: it cannot be written.
        """
        write_json(path, asdict(self))

    def of(self, scenario: str, plan: str) -> dict[str, float]:
        """Return the bounds of a scenario, by name; none where it has none.

        Args:
            scenario: its name.
            plan: hash of the answers that are to be held against them.

        Raises:
            SettingError: they are of other answers, or of another world.
        """
        found = {name: values[scenario] for name, values in self.bounds.items() if scenario in values}
        if found and self.plans.get(scenario, plan) != plan:
            raise SettingError(
                f"the bounds of {shown(scenario)} were found for other answers, or in another world (prompts, links, profiles, seed, "
                "preference); find them anew with synera bounds, or leave them out"
            )
        return found

    def of_validation(self, env: DecisionEnv, plan: Sequence[PlannedAnswer]) -> dict[str, float]:
        """Return those of a training's validation.

        Raises:
            SettingError: there are none, or they are of other answers or of another world.
        """
        if not (found := self.of(VALIDATION, plan_hash(env, plan))):
            raise SettingError("the bounds are of scenarios, and none of a training's validation; find that with synera bounds")
        return found


def plan_hash(env: DecisionEnv, plan: Sequence[PlannedAnswer]) -> str:
    """Return what tells a plan in a world from others: its answers, prompts, links, outages, and what device and cloud take.

    Whether graphs grow makes no other world of it.
    """
    world = {name: value for name, value in env.provenance().items() if name != "grows"}
    links = {place: env.links[place].digest for place in sorted({each.link for each in plan})}
    told: dict[str, Any] = {"world": world, "plan": [asdict(each) for each in plan], "links": links}
    if isinstance(env, SyneraReplayEnv):
        told |= {"device": asdict(env.device), "cloud": asdict(env.cloud)}
        told["prompts"] = [env.graphs.meta.prompts[each.prompt] for each in plan]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


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
