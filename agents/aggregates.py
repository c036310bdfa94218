"""What is said of a contest: means with intervals over prompts and training seeds, differences, and rliable's aggregates.

**Intervals** (ours): a resample draws training seeds with replacement, and prompts with replacement, the same ones for every seed,
scenario and controller (seeds and prompts are crossed: Owen's pigeonhole bootstrap); it is the mean over scenarios, each counting
once. A controller that was not trained has no seeds to draw. 95 %, by percentiles.

**Aggregates** (Agarwal et al., arXiv 2108.13264): of a matrix runs x tasks. A *task* is a kind of task in a scenario. A *run* is a
training seed on a share of the prompts: those of each kind are dealt out to so many runs, so all controllers are judged on the
same prompts run by run; rules, which have no seeds, answer those of each run. A *score* is the mean reward of the run in the task,
scaled so that 0 is the least and 1 the greatest mean that an untrained controller has in the task. Tasks where these lie closer
than :data:`LEAST_RANGE` say nothing, and are left out. Metrics, stratified bootstrap and profiles are rliable's own; only the
probability of improvement, which it tests task by task, is worked out here for all tasks at once. What does not live here:
fronts.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rliable import library, metrics

from agents.comparison import RESAMPLES, Estimate, covered_share, resampled_values
from agents.contest import MEASURES, ONLY, Contest
from agents.evaluation import Answered
from runtime.settings import within
from synera_env import UncoveredError

LEAST_RANGE = 0.02
"""Of reward."""
LEAST_RUNS = 5
_THRESHOLDS = np.linspace(-0.5, 1.5, 81)
_OURS, _THEIRS = 1, 2


def cell(answered: Sequence[Answered], measure: str, kind: str | None = None) -> NDArray[np.float64] | None:
    """Return the mean of a measure over prompts, [1 + resamples]: of the prompts as they are, then of drawn ones.

    None where no answer was kept. What was lost is stood for as :mod:`agents.comparison` says.

    Args:
        answered: outcomes of one plan.
        measure: one of :data:`agents.contest.MEASURES`.
        kind: of the prompts; None is all.
    """
    own = [a for a in answered if kind is None or a.kind == kind]
    if not any(a.metrics for a in own):
        return None
    return resampled_values(own, [0.0 if a.metrics is None else MEASURES[measure](a.metrics) for a in own])


def over_seeds(means: NDArray[np.float64], side: int = _OURS) -> NDArray[np.float64]:
    """Return the mean over training seeds, [1 + resamples], of [seeds, 1 + resamples]: first as they are, then drawn anew each time."""
    seeds = len(means)
    drawn = np.random.default_rng([seeds, side]).multinomial(seeds, np.full(seeds, 1 / seeds), means.shape[1] - 1)
    return np.concatenate([means[:, :1].mean(0), np.einsum("rs,sr->r", drawn / seeds, means[:, 1:])])


class Means:
    """Means of a contest, resampled; each figured out once."""

    def __init__(self, contest: Contest) -> None:
        """See the module."""
        self.contest = contest
        self._cells: dict[tuple[str, str, str, str, str | None], NDArray[np.float64] | None] = {}

    def cell(self, name: str, seed: str, scenario: str, measure: str, kind: str | None = None) -> NDArray[np.float64] | None:
        """See :func:`cell`."""
        key = (name, seed, scenario, measure, kind)
        if key not in self._cells:
            self._cells[key] = cell(self.contest.answered[name][seed][scenario], measure, kind)
        return self._cells[key]

    def of(
        self,
        name: str,
        measure: str = "reward",
        scenarios: Sequence[str] | None = None,
        kind: str | None = None,
        seeds: Sequence[str] | None = None,
        side: int = _OURS,
    ) -> NDArray[np.float64] | None:
        """Return the mean over seeds and scenarios, [1 + resamples]; None where a seed kept nothing in one of them.

        Args:
            name: of the controller.
            measure: one of :data:`agents.contest.MEASURES`.
            scenarios: names; None is all.
            kind: of the prompts; None is all.
            seeds: of the controller; None is all.
            side: whose seeds these are in a difference, as both draw their own.
        """
        names = [s.name for s in self.contest.scenarios] if scenarios is None else scenarios
        seeds = list(self.contest.answered[name]) if seeds is None else seeds
        means = []
        for seed in seeds:
            cells = [self.cell(name, seed, scenario, measure, kind) for scenario in names]
            known = [each for each in cells if each is not None]
            if len(known) < len(cells):
                return None
            means.append(np.mean(known, axis=0))
        return over_seeds(np.array(means), side)

    def estimate(self, name: str, measure: str = "reward", **chosen: object) -> Estimate | None:
        """Return :meth:`of` with its interval."""
        found = self.of(name, measure, **chosen)  # type: ignore[arg-type]
        return None if found is None else Estimate.of(found[0], found[1:])

    def difference(self, ours: str, theirs: str, measure: str = "reward", **chosen: object) -> Estimate | None:
        """Return ours minus theirs, on the same drawn prompts, each with seeds of its own; None where one kept nothing."""
        one = self.of(ours, measure, **chosen, side=_OURS)  # type: ignore[arg-type]
        other = self.of(theirs, measure, **chosen, side=_THEIRS)  # type: ignore[arg-type]
        if one is None or other is None:
            return None
        minus = one - other
        return Estimate.of(minus[0], minus[1:])

    def uncovered(self, name: str) -> float:
        """Share of the planned answers that left the recorded graphs."""
        shares = [covered_share(found) for seeds in self.contest.answered[name].values() for found in seeds.values()]
        return 1.0 - float(np.mean(shares))


# ---------------------------------------------------------------- rliable


class Task(NamedTuple):
    """A kind of task in a scenario."""

    scenario: str
    kind: str


@dataclass(frozen=True)
class Scores:
    """Normalised scores of controllers that kept answers in every run of every task."""

    tasks: tuple[Task, ...]
    left_out: tuple[Task, ...]
    """In which no two untrained controllers are worth telling apart, or one kept nothing."""
    runs: int
    matrices: Mapping[str, NDArray[np.float64]]
    """By controller, [runs, tasks]."""
    silent: tuple[str, ...]
    """Controllers that kept nothing in half of the tasks or more; they take no others with them."""


@dataclass(frozen=True)
class Aggregates:
    """rliable's figures."""

    iqm: Mapping[str, Estimate]
    improvement: Mapping[tuple[str, str], Estimate]
    """Probability that the first beats the second in a task."""
    thresholds: NDArray[np.float64]
    profiles: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]]
    """By controller, the share of runs x tasks above each threshold: the share, and its interval."""


def scores_of(contest: Contest, runs: int | None = None) -> Scores:
    """Return the scores of a contest; see the module.

    Args:
        contest: what came of it.
        runs: None is the most seeds that a policy has, and at least :data:`LEAST_RUNS`.

    Raises:
        UncoveredError: there is no task to tell controllers apart by.
    """
    runs = runs or max(LEAST_RUNS, *(len(seeds) for seeds in contest.answered.values()))
    within("runs", runs, 2, 1000)
    tasks = [Task(scenario.name, kind) for scenario in contest.scenarios for kind in contest.kinds]
    raw = {name: np.array([_runs(contest, name, task, runs) for task in tasks]).T for name in contest.answered}
    silent = tuple(name for name, each in raw.items() if np.isnan(each).any(0).mean() >= 0.5)
    heard = {name: each for name, each in raw.items() if name not in silent}
    untrained = [name for name in heard if list(contest.answered[name]) == [ONLY]] or list(heard)
    if not heard:
        raise UncoveredError("no controller keeps enough answers inside the recorded graphs for aggregates over tasks")
    middle = np.array([heard[name].mean(0) for name in untrained])
    low, spread = middle.min(0), np.ptp(middle, axis=0)
    whole = ~np.isnan(np.array(list(heard.values()))).any((0, 1)) & (spread >= LEAST_RANGE)
    if not whole.any():
        raise UncoveredError(
            f"in none of the {len(tasks)} tasks do two untrained controllers differ by {LEAST_RANGE:g} of reward, so aggregates over tasks "
            "say nothing; compare more controllers, or more answers"
        )
    matrices = {name: (each[:, whole] - low[whole]) / spread[whole] for name, each in heard.items()}
    kept = tuple(task for task, use in zip(tasks, whole, strict=True) if use)
    return Scores(kept, tuple(task for task in tasks if task not in kept), runs, matrices, silent)


def _runs(contest: Contest, name: str, task: Task, runs: int) -> NDArray[np.float64]:
    """Mean reward of each run in a task, [runs]; NaN where it kept nothing."""
    seeds = list(contest.answered[name])
    found = np.full(runs, np.nan)
    for run in range(runs):
        own = [a for a in contest.answered[name][seeds[run % len(seeds)]][task.scenario] if a.kind == task.kind]
        prompts = sorted({a.prompt for a in own})
        dealt = set(prompts[run::runs])
        kept = [a.metrics.reward for a in own if a.prompt in dealt and a.metrics is not None]
        if kept:
            found[run] = np.mean(kept)
    return found


def aggregates_of(scores: Scores, pairs: Sequence[tuple[str, str]], resamples: int = RESAMPLES) -> Aggregates:
    """Return the aggregates, intervals by rliable's stratified bootstrap: runs are drawn anew for each task.

    Args:
        scores: of a contest.
        pairs: controllers to compare; those that have no scores are left out.
        resamples: of the bootstrap.
    """
    matrices = dict(scores.matrices)
    points, intervals = library.get_interval_estimates(
        matrices, lambda each: np.array([metrics.aggregate_iqm(each)]), reps=resamples, random_state=_drawn(0)
    )
    iqm = {name: Estimate(float(points[name][0]), *(float(end) for end in intervals[name][:, 0])) for name in matrices}
    above, bands = library.get_interval_estimates(matrices, _profile, reps=resamples, random_state=_drawn(0))
    profiles = {name: (np.asarray(above[name]), *bands[name]) for name in matrices}
    known = [(one, other) for one, other in pairs if one in matrices and other in matrices]
    improvement = {(one, other): _improvement(matrices[one], matrices[other], resamples) for one, other in known}
    return Aggregates(iqm, improvement, _THRESHOLDS, profiles)


def _improvement(one: NDArray[np.float64], other: NDArray[np.float64], resamples: int) -> Estimate:
    drawn = library.StratifiedIndependentBootstrap(one, other, random_state=_drawn(1)).bootstrap(resamples)
    found = np.array([improvement_probability(*matrices) for matrices, _ in drawn])
    return Estimate.of(metrics.probability_of_improvement(one, other), found)


def _drawn(number: int) -> np.random.RandomState:
    return np.random.RandomState(number)  # as arch, which draws, wants it


def _profile(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the scores above each threshold; `rliable.library.create_performance_profile` cannot be seeded."""
    return np.array([library.run_score_deviation(matrix, threshold) for threshold in _THRESHOLDS])


def improvement_probability(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return `rliable.metrics.probability_of_improvement`, which tests each task on its own, for all tasks at once."""
    ahead, even = one[:, None] > other[None], one[:, None] == other[None]
    return float((ahead + 0.5 * even).mean())
