"""The informed bound: the best that gradient-boosted trees reach on what a device sees, fitted to exact gains of all actions.

Policy iteration over the decision process. A round walks through many answers as the policy does, now and then otherwise, works out
exactly what every action gains over the policy at each state on the way, if the policy goes on from there, and fits trees to that; the next
policy takes what they promise most of. Prompts lie in folds: the trees that decide the answers of one fold were fitted on the
others, so that neither a policy's value nor what actions gain over it flatters trees that know the outcomes by heart. The
bound is one for policies of the same observations and actions, at so many prompts: more of them can raise it. What one run finds differs
from seed to seed, so several are made and their trees averaged.

What does not live here: the trees (trees.py), and courses through the process (choices.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.counterfactual.batch import Batch
from agents.counterfactual.choices import ANSWERS_AT_ONCE, Courses, RuleScorer, Scorer, course_values
from agents.counterfactual.learning import best_rule
from agents.counterfactual.trees import TreeController, Trees
from runtime.errors import SettingError
from runtime.settings import above, whole, within
from synera_env.synera.decisions.scenarios import Ranges, Scenarios
from synera_env.synera.decisions.sight import Sight

_RULE_ANSWERS = 256
_COUNTS = {
    "fits": (1, 100),
    "rounds": (1, 100),
    "answers": (1, 1000),
    "walks": (1, 1000),
    "folds": (2, 100),
    "trees": (1, 10_000),
    "leaves": (2, 10_000),
    "least_rows": (1, 1_000_000),
    "seed": (0, 2**32 - 1),
}


@dataclass(frozen=True)
class InformedConfig:
    """How the bound is found."""

    fits: int = 3
    """Runs of policy iteration, each with draws of its own; the policy takes what their trees promise on the mean."""
    rounds: int = 4
    """Of each."""
    answers: int = 3
    """To each prompt in a round, each in a scenario of its own."""
    walks: int = 2
    """Through each answer."""
    explore: float = 0.2
    """Share of the actions on the way that are drawn."""
    folds: int = 2
    """Of prompts."""
    trees: int = 80
    """An action and fold."""
    leaves: int = 24
    """Most of a tree."""
    least_rows: int = 150
    """Of a leaf: decisions, of which a prompt has several."""
    rate: float = 0.06
    """Of learning."""
    seed: int = 0
    """Of everything that is drawn."""

    def __post_init__(self) -> None:
        for name, (low, high) in _COUNTS.items():
            whole(name, getattr(self, name), low, high)
        within("explore", self.explore, 0.0, 1.0)
        above("rate", self.rate, 0.0)
        within("rate", self.rate, 0.0, 1.0)


class Round(NamedTuple):
    """How a round went."""

    policy: Trees
    """The mean of what was fitted on the folds."""
    held_out: float
    """Mean worth of an answer of the policy before it, decided by trees that do not know its prompt."""
    decisions: int
    """That were looked at."""


@dataclass(frozen=True)
class Informed:
    """The policy that was found."""

    trees: Trees
    prompts: int
    """That it was fitted on."""

    def values(self, sight: Sight, prompts: NDArray[np.int64], scenarios: Scenarios) -> NDArray[np.float64]:
        """What it is worth in the decision process, [answers]; see :func:`agents.counterfactual.choices.course_values`."""
        return course_values(sight, self.trees, prompts, scenarios)

    def controller(self, sight: Sight) -> TreeController:
        """The same as a controller, for the full replay."""
        return TreeController(self.trees, sight.work.process.actions, sight.schema)


def informed(
    sight: Sight,
    ranges: Ranges,
    config: InformedConfig = InformedConfig(),
    prompts: Sequence[int] | None = None,
    on_round: Callable[[Round], object] = lambda done: None,
) -> Informed:
    """Fit the policy of the bound.

    Args:
        sight: of the process to fit on.
        ranges: of scenarios.
        config: how.
        prompts: to fit on; None is all that have states.
        on_round: called after each round of each fit.

    Raises:
        SettingError: there are fewer prompts than folds.
    """
    of = np.asarray(sight.work.process.startable if prompts is None else prompts, np.int64)
    if len(of) < config.folds:
        raise SettingError(f"{len(of)} prompts cannot lie in folds={config.folds}; give more prompts, or fewer folds")
    fits = [_one_fit(sight, ranges, config, of, fit, on_round) for fit in range(config.fits)]
    return Informed(Trees.mean(fits), len(of))


def _one_fit(
    sight: Sight,
    ranges: Ranges,
    config: InformedConfig,
    of: NDArray[np.int64],
    fit: int,
    on_round: Callable[[Round], object],
) -> Trees:
    """One run of policy iteration."""
    rng = np.random.default_rng([config.seed, 29, fit])
    folds = np.array_split(rng.permutation(of), config.folds)
    rule = best_rule(sight, ranges, _RULE_ANSWERS, rng)
    policies: list[Scorer] = [RuleScorer(rule, sight.schema, sight.work.process.actions.ways)] * config.folds
    for number in range(config.rounds):
        met = [
            _meet(sight, ranges, np.repeat(fold, config.answers), p, config, rng)
            for fold, p in zip(folds, policies, strict=True)
        ]
        fitted = [
            _fit([each for place, each in enumerate(met) if place != out], config, fit * config.rounds + number, out)
            for out in range(len(met))
        ]
        held_out = float(np.concatenate([each.answers for each in met]).mean())
        done = Round(Trees.mean(fitted), held_out, sum(len(each.seen) for each in met))
        policies = list(fitted)
        on_round(done)
    return done.policy


class _Met(NamedTuple):
    """Decisions of a fold."""

    seen: NDArray[np.float32]
    gains: NDArray[np.float64]
    visits: NDArray[np.float64]
    answers: NDArray[np.float64]
    """What each is worth, [answers]."""


def _meet(
    sight: Sight, ranges: Ranges, prompts: NDArray[np.int64], policy: Scorer, config: InformedConfig, rng: np.random.Generator
) -> _Met:
    """Meet the decisions of answers under a policy, and work out what each action gains there."""
    found: list[_Met] = []
    for part in np.split(prompts, range(ANSWERS_AT_ONCE, len(prompts), ANSWERS_AT_ONCE)):
        batch = Batch.of(sight.work, part, Scenarios.draw(ranges, len(part), rng))
        courses = Courses(batch, sight.observe(part, batch.scenarios), policy)
        visits = courses.explore(config.walks, config.explore, rng)
        gains = courses.gains(visits)
        found.append(_Met(courses.seen[gains.states], gains.gains, visits[gains.states], courses.value()))
    return _Met(*(np.concatenate(each) for each in zip(*found, strict=True)))


def _fit(met: Sequence[_Met], config: InformedConfig, number: int, fold: int) -> Trees:
    seen, gains, visits, _ = (np.concatenate(each) for each in zip(*met, strict=True))
    seed = (config.seed * 1009 + number) * config.folds + fold
    grown = config.trees, config.leaves, config.least_rows, config.rate
    return Trees.fitted(seen, gains, visits, *grown, seed % 2**31)
