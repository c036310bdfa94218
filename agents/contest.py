"""Who answered what in an evaluation over scenarios, replayed or live: by controller, training seed and scenario.

What does not live here: what is said of it (aggregates.py, fronts.py), and the scenarios.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from agents.base import Controller
from agents.evaluation import Answered
from agents.stage import Stage
from runtime.errors import SettingError
from runtime.settings import shown
from synera_env.mixes import Scenario

ONLY = "-"
"""Seed of a controller that was not trained, or of a policy that was trained once."""
_SEED = re.compile(r"(?P<name>.+?)[-_]?seed[-_]?(?P<seed>\d+)")
MEASURES: Mapping[str, Callable[..., float]] = {
    "reward": lambda m: m.reward,
    "quality": lambda m: m.quality,
    "seconds": lambda m: m.seconds,
    "ttft_seconds": lambda m: m.ttft_seconds,
    "tbt_mean_seconds": lambda m: m.tbt_mean_seconds,
    "offload_rate": lambda m: m.offload_rate,
    "cloud_seconds": lambda m: m.cloud_seconds,
    "joules": lambda m: m.joules,
    "megabytes": lambda m: (m.uplink_bytes + m.downlink_bytes) / 1e6,
}
"""What is reported of answers, by name, read off their metrics."""


@dataclass(frozen=True)
class Contestant:
    """One who answers: a rule, or one training seed of a policy."""

    name: str
    """Of the rule, or the policy that all its seeds share."""
    controller: Callable[[Scenario], Controller]
    """Who decides in a scenario; the same everywhere but for what is tuned to each."""
    seed: str = ONLY
    together: bool = True
    """See :meth:`agents.rows.Rows.answers`."""
    learned: bool = False


@dataclass(frozen=True)
class Contest:
    """The outcomes: of every controller and training seed the answers to one plan in every scenario."""

    scenarios: tuple[Scenario, ...]
    answered: Mapping[str, Mapping[str, Mapping[str, Sequence[Answered]]]] = field(repr=False)
    """By controller, seed and name of the scenario."""

    def __post_init__(self) -> None:
        names = {scenario.name for scenario in self.scenarios}
        for controller, seeds in self.answered.items():
            for seed, found in seeds.items():
                if missing := sorted(names - set(found)):
                    raise SettingError(
                        f"{shown(controller)}, seed {shown(seed)}, has no answers in {len(missing)} of {len(names)} scenarios, such as "
                        f"{shown(missing[0])}"
                    )
        for scenario in names:
            plans = {tuple(a.prompt for a in found[scenario]) for seeds in self.answered.values() for found in seeds.values()}
            if len(plans) > 1:
                raise ValueError(f"the answers in {scenario} are not of one plan")

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of tasks, in the order of the alphabet."""
        answers = (a for seeds in self.answered.values() for found in seeds.values() for all_ in found.values() for a in all_)
        return tuple(sorted({a.kind for a in answers}))

    def seeds(self, controller: str) -> Mapping[str, Mapping[str, Sequence[Answered]]]:
        """By training seed, the answers by scenario."""
        return self.answered[controller]


def hold(
    stage: Stage,
    scenarios: Sequence[Scenario],
    contestants: Sequence[Contestant],
    finished: Callable[[], object] = lambda: None,
) -> Contest:
    """Let all answer the same plan in every scenario.

    Args:
        stage: the worlds.
        scenarios: where.
        contestants: who.
        finished: called after each of them in each scenario.

    Raises:
        BundleError: a bundle was not trained for the preference of a scenario.
        SettingError: two contestants share a name and a seed.
    """
    answered: dict[str, dict[str, dict[str, list[Answered]]]] = {}
    for each in contestants:
        if each.seed in answered.setdefault(each.name, {}):
            raise SettingError(f"two controllers are named {shown(each.name)} with the seed {shown(each.seed)}")
        answered[each.name][each.seed] = {}
    for scenario in scenarios:
        rows, plan = stage.rows(scenario), stage.plan(scenario)
        for each in contestants:
            answered[each.name][each.seed][scenario.name] = rows.answers(each.controller(scenario), plan, each.together)
            finished()
    return Contest(tuple(scenarios), answered)


def by_seeds(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Tell policies from their training seeds: names that are alike up to `-seedN` are seeds of one policy.

    A name that is alone with its seed stays what it is, as it says nothing of other seeds.

    Args:
        names: of bundles.

    Returns:
        By name, the policy's name and the seed.
    """
    found: dict[str, tuple[str, str]] = {}
    for name in names:
        match = _SEED.fullmatch(name)
        found[name] = (match["name"], match["seed"]) if match else (name, ONLY)
    shared = [policy for policy, _ in found.values()]
    return {name: of if shared.count(of[0]) > 1 and of[1] != ONLY else (name, ONLY) for name, of in found.items()}
