"""What each figure of a draft is worth as the rule of what to offload: quality against offload rate, in replay.

The levels are found on training prompts, the curves on others. What does not live here: the rules (rules/), how well a
figure tells wrong chunks from right ones (signals.py), tables and pictures (scripts/).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from agents.base import Controller, Seeded
from agents.comparison import ADVICE, Estimate, covered_share, resampled, warn_uncovered
from agents.evaluation import Answered, answer, answer_all, make_plan
from agents.rules import FIGURES, ChanceRule, FixedRule, LevelRule
from synera_env import DecisionEnv, UncoveredError

CRITERIA: dict[str, tuple[str, ...]] = {
    "confidence": ("confidence",),
    "importance": ("importance",),
    "both": ("confidence", "importance"),
    "entropy": ("entropy",),
    "margin": ("margin",),
}
"""By name, the figures that must all be doubtful; besides these there is chance."""
RANDOM = "random"
RATES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Offload rates that levels are found for; between them, and to the ends, curves are straight."""
COMMON_RATES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
"""Offload rates that criteria are compared at."""
_GRID = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Point:
    """One rule, and what it came to on the prompts that are tested."""

    rule: str
    """Its name, as `deploy` takes it."""
    wanted_rate: float
    """Offload rate that its level has on the training prompts."""
    offload_rate: float
    quality: Estimate


@dataclass(frozen=True)
class Curve:
    """A criterion at all its levels. Differences are paired: of the same resampled prompts."""

    points: tuple[Point, ...]
    """By offload rate, from never to always."""
    quality_at: dict[str, Estimate]
    """By each of :data:`COMMON_RATES`: on the straight line between its neighbours."""
    area: Estimate
    """Under the curve: mean quality over all offload rates."""
    area_minus_random: Estimate
    area_minus_confidence: Estimate


@dataclass(frozen=True)
class Ablation:
    """The curves of all criteria."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    planned_answers: int
    prompts: int
    least_covered: float
    """Share of its answers that stayed inside the recorded graphs, of the rule that loses most; for those that were lost see
    :mod:`agents.comparison`."""
    curves: dict[str, Curve]
    """By criterion."""

    def best(self) -> str:
        """The criterion with the largest area; of equal ones the first."""
        return max(self.curves, key=lambda name: self.curves[name].area.mean)


def ablate(
    train: DecisionEnv, test: DecisionEnv, answers: int, seed: int = 0, finished: Callable[[], object] = lambda: None
) -> Ablation:
    """Measure the curve of each criterion.

    Give both worlds without outages: a check that is lost then says nothing of what it was about.

    Args:
        train: where levels are found.
        test: where they are tried.
        answers: of each rule, in either world.
        seed: of the plans.
        finished: called after each of :func:`count_rules` rules.

    Raises:
        UncoveredError: a rule keeps no answer inside the recorded graphs.
    """
    plan, tried = make_plan(test, answers, seed), dict[str, list[Answered]]()
    rules = list(_rules(train, test, answers, seed))
    for _, _, name, rule in rules:
        if name not in tried:  # the ends are the same for all, and levels may coincide
            tried[name] = answer_all(test, rule, plan)
        finished()
    covered = {name: covered_share(outcomes) for name, outcomes in tried.items()}
    worst = min(covered, key=lambda name: covered[name])
    if not covered[worst]:
        raise UncoveredError(f"the rule {worst} keeps no answer inside the recorded graphs; {ADVICE}")
    warn_uncovered(f"what the ablation says of {worst}", tried[worst])
    means = {name: np.stack([resampled(o, "offload_rate"), resampled(o, "quality")]) for name, o in tried.items()}
    curves = {}
    for criterion in (*CRITERIA, RANDOM):
        own = [(wanted, name) for each, wanted, name, _ in rules if each == criterion]
        curves[criterion] = _Resampled(own, np.stack([means[name] for _, name in own]))
    reference = {name: curves[name].areas for name in (RANDOM, "confidence")}
    return Ablation(
        planned_answers=len(plan),
        prompts=len({planned.prompt for planned in plan}),
        least_covered=covered[worst],
        curves={name: curve.summary(reference) for name, curve in curves.items()},
    )


def count_rules() -> int:
    """How many rules an ablation has: at each rate, and at both ends, one for each criterion and one for chance."""
    return (2 + len(RATES)) * (len(CRITERIA) + 1)


def levels_at(seen: Mapping[str, NDArray[np.float32]], figures: Sequence[str], rate: float) -> dict[str, float]:
    """Return the levels from which all of some figures are doubtful for a share of the drafts seen.

    Each figure alone is doubtful for the same share of them, found by bisection; so where there are two, neither is stricter.

    Args:
        seen: by figure, its values [drafts].
        figures: that must all be doubtful.
        rate: share of the drafts.
    """
    low, high, levels = 0.0, 1.0, dict[str, float]()
    for _ in range(30):
        each = (low + high) / 2
        at = {name: np.quantile(seen[name], each if FIGURES[name].sure else 1 - each) for name in figures}
        levels = {name: float(f"{level:.7g}") for name, level in at.items()}  # what a person is shown, and can type
        doubtful = np.all([FIGURES[name].reaches(seen[name], level) for name, level in levels.items()], axis=0)
        low, high = (each, high) if doubtful.mean() < rate else (low, each)
    return levels


class Watched:
    """A controller that remembers what it saw; implements :class:`agents.base.Seeded`."""

    def __init__(self, rule: Controller) -> None:
        self.seen: list[NDArray[np.float32]] = []
        """Observations, in their order."""
        self._rule = rule

    def initial_state(self, seed: int) -> Any:
        """See :class:`agents.base.Seeded`."""
        return self._rule.initial_state(seed) if isinstance(self._rule, Seeded) else None

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`."""
        self.seen.append(np.asarray(observation))
        return self._rule.predict(observation, state, episode_start, deterministic)


def _rules(train: DecisionEnv, test: DecisionEnv, answers: int, seed: int) -> Iterator[tuple[str, float, str, Controller]]:
    """Criterion, wanted rate, name and rule of every point of every curve."""
    plan, schema = make_plan(train, answers, seed), test.schema
    for rate, preset in ((0.0, "never"), (1.0, "always")):
        for criterion in (*CRITERIA, RANDOM):
            yield criterion, rate, preset, FixedRule(schema.presets[preset], schema)
    for rate in RATES:
        chance = ChanceRule(rate, schema)
        yield RANDOM, rate, chance.name, chance
        watched = Watched(chance)  # drafts as they are met where so many chunks are checked, whichever these are
        for planned in plan:
            answer(train, watched, planned)
        observations = np.stack(watched.seen)
        seen = {name: figure.reader(schema)(observations) for name, figure in FIGURES.items()}
        for criterion, figures in CRITERIA.items():
            rule = LevelRule(levels_at(seen, figures, rate), schema)
            yield criterion, rate, rule.name, rule


class _Resampled:
    """A curve of the prompts as they are, and of each resample of them."""

    def __init__(self, rules: Sequence[tuple[float, str]], means: NDArray[np.float64]) -> None:
        """Args: rules: wanted rate and name of each; means: offload rate and quality, [rules, 2, 1 + resamples]."""
        self._rules, self._means = rules, means
        self._quality = np.stack([_interpolated(*means[..., i].T) for i in range(means.shape[-1])])
        """[1 + resamples, grid]."""
        self.areas = (self._quality[:, 1:] + self._quality[:, :-1]).mean(1) / 2  # trapezoids

    def summary(self, reference: Mapping[str, NDArray[np.float64]]) -> Curve:
        """Return means and intervals, and the differences to the areas of other curves."""
        order = sorted(range(len(self._rules)), key=lambda i: (self._means[i, 0, 0], self._rules[i][0]))
        points = [
            Point(self._rules[i][1], self._rules[i][0], float(self._means[i, 0, 0]), _estimate(self._means[i, 1]))
            for i in order
        ]
        at = {f"{rate:g}": _estimate(self._quality[:, round(rate * (len(_GRID) - 1))]) for rate in COMMON_RATES}
        minus = {name: _estimate(self.areas - areas) for name, areas in reference.items()}
        return Curve(tuple(points), at, _estimate(self.areas), minus[RANDOM], minus["confidence"])


def _interpolated(rates: NDArray[np.float64], quality: NDArray[np.float64]) -> NDArray[np.float64]:
    order = np.argsort(rates, kind="stable")
    return np.interp(_GRID, rates[order], quality[order])


def _estimate(values: NDArray[np.float64]) -> Estimate:
    return Estimate.of(values[0], values[1:])
