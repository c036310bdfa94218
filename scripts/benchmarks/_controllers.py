"""Figures of the area `agents`, read off what its commands wrote: margins over scenarios, live ranks, training over wall time.

What does not live here: the commands (agents.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np

from agents.aggregates import Means
from agents.base import Controller
from agents.comparison import ADVICE, Estimate
from agents.contest import Contestant, hold
from agents.fronts import cost_of, points_of
from agents.gaps import Bounds, closed
from agents.learning.run_folder import LOG
from agents.registry import rules
from agents.stage import Stage
from scripts import _grid
from scripts._contestants import usable
from scripts._live_sections import LiveFile
from scripts._outcome import BEST_FIXED
from scripts._tested import Tested
from scripts.benchmarks.harness import Figure
from synera_env import Outages, UncoveredError
from synera_env.mixes import FAMILIES, PROFILE, Mix, Scenario, Worlds, scenarios_of
from synera_env.reward import Prefer

AT_SECONDS = (30, 60, 180)
"""At which trainings are compared."""
_QUALITY_LOST = 0.01
"""Of the LLM's."""
_ALWAYS, _OURS = "always", "ours"


def margins(means: Means, ours: str, link_aware: str, tested: Tested) -> list[Figure]:
    """Reward of a policy minus the strongest rules', over all scenarios, and over those whose links are of a family never trained on."""
    known = {link.family for link in tested.links("train")}
    families = {link.family for link in tested.test_links} - known
    new = [scenario.name for scenario in means.contest.scenarios if scenario.link in families]
    every = [scenario.name for scenario in means.contest.scenarios]
    found = []
    for where, scenarios in ((f"{len(every)} scenarios", every), (f"{len(new)} of links never trained on", new)):
        for rival in (BEST_FIXED, _grid.OF_EACH, link_aware):
            minus = means.difference(ours, rival, scenarios=scenarios)
            found.append(_surely_above(f"{ours} minus {rival}, {where}", minus))
    return found


def _surely_above(name: str, minus: Estimate | None) -> Figure:
    if minus is None:
        raise UncoveredError(f"{name}: in some scenario no answer stays inside the recorded graphs; {ADVICE}")
    said = f"mean and interval over seeds and prompts: {minus:+.4f}"
    return Figure(name, minus.low, "reward, low end of 95 %", 0.0, "higher", said)


def gaps(means: Means, bounds: Bounds, ours: str, link_aware: str) -> list[Figure]:
    """Shares of the gaps to the informed bound: from the best single setting on, and from the link-aware rule on."""
    found = []
    for baseline, goal in ((BEST_FIXED, 0.5), (link_aware, None)):
        for each in closed(means, bounds, baseline, (ours,)):
            if each.share is None:  # there is no gap to close
                continue
            name, said = (
                f"share of the gap from {baseline} to {each.bound}",
                f"{each.share:.3f}, over {each.scenarios} scenarios",
            )
            found.append(Figure(name, each.share.mean, "of 1", goal, "higher", said))
    return found


def live(found: LiveFile, ours: str, link_aware: str) -> list[Figure]:
    """How alike replay and live rank the controllers, and whether the policy is ahead live, too."""
    count, correlation = len(found.controllers), found.rank_correlation
    spearman = float("nan") if correlation["mean"] is None else correlation["mean"]
    peer = f"{count} controllers, {found.planned_answers} answers of each by {found.devices} devices; interval {correlation['low']} to {correlation['high']}"
    figures = [Figure("Spearman's correlation of mean returns, replay and live", spearman, "", 0.9, "higher", peer)]
    for rival in ("runs/rules/fixed.json", link_aware):
        minus = {}
        for world in ("replay", "live"):
            earned = {name: _known(each.means[world]["reward"]) for name, each in found.controllers.items()}
            own = [each for name, each in earned.items() if name.startswith(ours)]
            minus[world] = float(np.mean(own)) - earned[rival]
        peer = f"{len(own)} training seed(s); in replay on the same answers {minus['replay']:+.4f}"
        figures.append(Figure(f"{ours} minus {rival}, live", minus["live"], "reward", 0.0, "higher", peer))
    return figures


def _known(value: float | None) -> float:
    return float("nan") if value is None else value


def training(runs: Path, agents: Sequence[str], seeds: int, picture: Path) -> list[Figure]:
    """Seconds until a training beat every rule, and validation reward over wall time, also drawn."""
    ours, figures = agents[0], []
    lines = {agent: [_lines(runs / f"{agent}-seed{seed}" / LOG) for seed in range(seeds)] for agent in agents}
    for what, end, goal in (("beats every rule on validation", 0, 180.0), ("does so surely, by the 95 % interval", 1, None)):
        since = [next((each["seconds"] for each in of if each["minus_best_rule"][end] > 0), float("inf")) for of in lines[ours]]
        peer = f"median of {seeds} seeds: {', '.join(f'{each:.0f}' for each in since)}"
        figures.append(Figure(f"{ours}: seconds until it {what}", median(since), "s", goal, "lower", peer))
    curves = {agent: [[(each["seconds"], each["reward"]) for each in of] for of in every] for agent, every in lines.items()}
    rule = float(np.mean([of[0]["reward"] - of[0]["minus_best_rule"][0] for of in lines[ours]]))
    for at in AT_SECONDS:
        said = {agent: [_best_until(each, at) for each in of_agent] for agent, of_agent in curves.items()}
        own = np.array(said.pop(ours))
        others = ", ".join(f"{name} {np.nanmean(each):.3f} (seeds: {_listed(each)})" for name, each in said.items())
        peer = f"seeds: {_listed(own)}; {others}; the best rule {rule:.3f}"
        figures.append(Figure(f"{ours}: validation reward after {at} s", float(np.nanmean(own)), "", None, "higher", peer))
    _draw(curves, rule, picture)
    return figures


def _listed(values: Sequence[float] | np.ndarray) -> str:
    return " ".join("none" if np.isnan(each) else f"{each:.3f}" for each in values)


def _lines(log: Path) -> list[dict[str, Any]]:
    """Of each validation that kept answers."""
    return [line for line in map(json.loads, log.read_text().splitlines()) if "reward" in line]


def _best_until(curve: Sequence[tuple[float, float]], at: float) -> float:
    """What the weights earn that a training would have exported by then; NaN before the first validation."""
    return max((reward for seconds, reward in curve if seconds <= at), default=float("nan"))


def _draw(curves: Mapping[str, Sequence[Sequence[tuple[float, float]]]], rule: float, path: Path) -> None:
    """Best validation reward so far over wall time: a thin line a seed, a thick one their mean."""
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(8, 4.5), dpi=130, layout="constrained")
    axes = canvas.subplots()
    times = np.linspace(1, max(AT_SECONDS), 360)
    for number, (agent, of_agent) in enumerate(curves.items()):
        rewards = np.array([[_best_until(curve, at) for at in times] for curve in of_agent])
        axes.plot(times, rewards.T, color=f"C{number}", linewidth=0.7, alpha=0.5)
        axes.plot(times, rewards.mean(0), color=f"C{number}", linewidth=2.2, label=f"{agent}, mean of {len(rewards)} seeds")
    axes.axhline(rule, color="0.3", linestyle="--", label="best rule of each seed's validation, mean")
    axes.set_xlabel("seconds of wall time, everything before the first step included")
    axes.set_ylabel("best validation reward so far")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    canvas.savefig(path)


def cloud_at_quality(tested: Tested, bundles: Sequence[Path], answers: int) -> list[Figure]:
    """Cloud seconds of a policy where it answers as well as the LLM but for a point, beside those of always offloading.

    Where no check is lost, so that always offloading gives the LLM's own answers. The policy is asked in every preference that has a
    name; between two of them, and between the dearest and always offloading, lies what a random mix of both gets.

    Raises:
        UncoveredError: too few answers stay inside the recorded graphs.
    """
    mix = Mix((FAMILIES,), (PROFILE,), get_args(Prefer))
    worlds = Worlds(mix, tested.graphs, tested.test_links, tested.device, tested.cloud, outages=Outages.never())
    stage, scenarios = Stage(worlds, answers), scenarios_of(mix, tested.test_links)
    env = stage.env(scenarios[0])
    always = [Contestant(_ALWAYS, lambda _: rules(env.schema)[_ALWAYS])]
    seeds = [Contestant(_OURS, partial(_same, usable(path, env)), str(seed), learned=True) for seed, path in enumerate(bundles)]
    means = Means(hold(stage, scenarios, [*always, *seeds]))
    ours, llm, dear = points_of(means, _OURS, "cloud_seconds"), means.of(_ALWAYS, "quality"), means.of(_ALWAYS, "cloud_seconds")
    if ours is None or llm is None or dear is None:
        raise UncoveredError(
            f"in some scenario no answer of {_ALWAYS} or of the policy stays inside the recorded graphs; {ADVICE}"
        )
    costs, reached = np.vstack([ours.costs, dear]), np.vstack([ours.quality, llm])
    ratios = np.array([cost_of(costs[:, r], reached[:, r], llm[r] - _QUALITY_LOST) / dear[r] for r in range(len(llm))])
    share, each = Estimate.of(ratios[0], ratios[1:]), zip(ours.preferences, reached[:, 0], costs[:, 0], strict=False)
    points = ", ".join(f"{name} {quality:.3f} at {cost:.3f} s" for name, quality, cost in each)
    said = f"{share:.3f}; the LLM's quality {llm[0]:.3f} at {dear[0]:.3f} s; by preference {points}"
    return [Figure("cloud seconds at the LLM's quality - 1 point", share.mean, "of always offloading's", 0.5, "lower", said)]


def _same(controller: Controller, scenario: Scenario) -> Controller:
    return controller
