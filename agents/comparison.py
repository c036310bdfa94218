"""What is said of answers of which some left the recorded graphs: means over all that was planned, and differences.

A replay that leaves is not invented to its end, so its answer is lost; and lost answers are not like the others, as the two
models disagree in them more often. So an answer that is kept stands for those that were lost, each controller's own: first
for lost answers to its prompt, then for prompts of its kind of which none was kept. Comparing controllers on the answers
that all of them keep, which looks fairer, is worse: where controllers differ one of them leaves, so their differences shrink.
Measured on the 144 whole training graphs, cut likeliest nodes first until 99.3 % (98.4 %) of the decisions of six rules
stayed inside: their mean quality was off by at most 0.007 (0.033) in this way and by 0.031 (0.102) on shared answers, their
differences to the threshold rule by at most 0.009 (0.035) and 0.036 (0.121).

What does not live here: how answers come about (evaluation.py), and how many leave (coverage.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from agents.evaluation import Answered
from synera_env import UncoveredError, summarise

ENOUGH = 0.9
"""Share of the answers that should stay inside the recorded graphs, for what is said of them to be said of all."""
ELIGIBLE = 0.5
"""Share of its answers that must stay inside for a controller to be chosen: one may otherwise win by losing what is hard."""
ADVICE = "record them with a larger node budget, or let them grow"
RESAMPLES = 2000


def stand_in(planned: NDArray[np.float64], kinds: NDArray[np.str_], kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return how much each prompt stands for, [prompts]; 0 where none of its answers was kept.

    Of each kind as much in all as was planned; prompts of a kind of which nothing was kept are stood for by no one, so they
    are left out.

    Args:
        planned: how much each one is to count, [prompts].
        kinds: of their tasks, [prompts].
        kept: whether any of its answers was, [prompts].
    """
    weights = np.where(kept, planned, 0.0)
    for kind in np.unique(kinds):
        own = kinds == kind
        if weights[own].any():
            weights[own] *= planned[own].sum() / weights[own].sum()
    return weights


@dataclass(frozen=True)
class ByPrompt:
    """The answers of one controller, by prompt."""

    prompts: NDArray[np.int64]
    """Those of the plan, rising; the fields below are theirs, [prompts]."""
    kinds: NDArray[np.str_]
    planned: NDArray[np.int64]
    kept: NDArray[np.int64]
    place: NDArray[np.int64]
    """Of each answer's prompt, [answers]."""

    @classmethod
    def of(cls, answered: Sequence[Answered]) -> ByPrompt:
        """Sort out the outcomes of a plan."""
        prompts, first, place = np.unique([a.prompt for a in answered], return_index=True, return_inverse=True)
        kept = np.array([a.metrics is not None for a in answered])
        count = len(prompts)
        kinds = np.array([answered[i].kind for i in first])
        return cls(prompts, kinds, np.bincount(place, minlength=count), np.bincount(place[kept], minlength=count), place)

    @property
    def weights(self) -> NDArray[np.float64]:
        """How much each prompt stands for where each counts once."""
        return stand_in(np.ones(len(self.prompts)), self.kinds, self.kept > 0)


def answer_weights(answered: Sequence[Answered]) -> NDArray[np.float64]:
    """Return how many of the planned answers each one stands for, [answers]; 0 for one that was lost."""
    by = ByPrompt.of(answered)
    of_prompts = stand_in(by.planned.astype(float), by.kinds, by.kept > 0) / np.maximum(by.kept, 1)
    return np.where([a.metrics is not None for a in answered], of_prompts[by.place], 0.0)


def covered_share(answered: Sequence[Answered]) -> float:
    """Return the share of the answers that stayed inside the recorded graphs."""
    return sum(a.metrics is not None for a in answered) / max(1, len(answered))


def mean_of(answered: Sequence[Answered], name: str) -> float:
    """Return the mean of a metric over all that was planned.

    Raises:
        UncoveredError: no answer was kept.
    """
    if not any(a.metrics for a in answered):
        raise UncoveredError(f"no answer stays inside the recorded graphs; {ADVICE}")
    values = [0.0 if a.metrics is None else float(getattr(a.metrics, name)) for a in answered]
    return float(np.average(values, weights=answer_weights(answered)))


def worth(answered: Sequence[Answered]) -> float:
    """Return the mean reward by which a controller is chosen; minus infinity where fewer than `ELIGIBLE` were kept."""
    return mean_of(answered, "reward") if covered_share(answered) >= ELIGIBLE else float("-inf")


def summarise_answers(answered: Sequence[Answered]) -> dict[str, float]:
    """Return `synera_env.summarise` over all that was planned, intervals by prompt; and the uncovered rate.

    Raises:
        UncoveredError: no answer was kept.
    """
    kept = [(a.metrics, a.prompt, w) for a, w in zip(answered, answer_weights(answered), strict=True) if a.metrics is not None]
    if not kept:
        raise UncoveredError(f"no answer stays inside the recorded graphs; {ADVICE}")
    metrics, prompts, weights = zip(*kept, strict=True)
    return summarise(metrics, prompts, weights=weights) | {"uncovered_rate": 1 - covered_share(answered)}


def summarise_all(answered: Mapping[str, Sequence[Answered]]) -> dict[str, dict[str, float]]:
    """Summarise controllers, each on its own answers; one that keeps none is not there.

    Warns of those of which fewer than `ENOUGH` were kept, and of kinds of prompts of which nothing was.

    Args:
        answered: by controller, its outcomes of one plan.

    Raises:
        ValueError: the controllers were not run on the same plan.
        UncoveredError: none of them kept an answer.
    """
    if len({tuple(a.prompt for a in outcomes) for outcomes in answered.values()}) > 1:
        raise ValueError("the answers of the controllers are not of one plan")
    found = {name: summarise_answers(outcomes) for name, outcomes in answered.items() if covered_share(outcomes)}
    if not found:
        raise UncoveredError(f"no answer of any controller stays inside the recorded graphs; {ADVICE}")
    for name in found:
        warn_uncovered(f"what is said of {name}", answered[name])
    return found


def warn_uncovered(what: str, answered: Sequence[Answered]) -> None:
    """Warn if what is said rests on too few of the answers planned, or leaves out kinds of prompts."""
    by = ByPrompt.of(answered)
    if (share := covered_share(answered)) < ENOUGH:
        prompts = f"to {np.count_nonzero(by.kept)} of {len(by.prompts)} prompts"
        _warn(f"{what} rests on {share:.0%} of the answers, {prompts}, the others left the recorded graphs; {ADVICE}")
    if lost := sorted(set(by.kinds) - set(by.kinds[by.kept > 0])):
        _warn(f"{what} says nothing of prompts of the kind {', '.join(lost)}: every answer left the recorded graphs; {ADVICE}")


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % bootstrap interval by prompt."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return format(self, ".3f")

    def __format__(self, spec: str) -> str:
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]" if spec else str(self)

    @classmethod
    def of(cls, mean: float, resampled: NDArray[np.float64]) -> Estimate:
        """Take the interval of the values of resampled prompts."""
        low, high = np.quantile(resampled, [0.025, 0.975])
        return cls(float(mean), float(low), float(high))


def reward_difference(ours: Sequence[Answered], theirs: Sequence[Answered]) -> Estimate:
    """Compare two controllers on one plan, each on its own answers, each prompt counting once.

    Raises:
        ValueError: they were not run on the same plan.
        UncoveredError: one of them kept no answer.
    """
    if [a.prompt for a in ours] != [b.prompt for b in theirs]:
        raise ValueError("the answers of the two controllers are not of one plan")
    minus = resampled(ours, "reward") - resampled(theirs, "reward")
    return Estimate.of(minus[0], minus[1:])


def resampled(answered: Sequence[Answered], name: str) -> NDArray[np.float64]:
    """Return the mean of a metric as :func:`resampled_values` does.

    Raises:
        UncoveredError: no answer was kept.
    """
    return resampled_values(answered, [0.0 if a.metrics is None else float(getattr(a.metrics, name)) for a in answered])


def resampled_values(answered: Sequence[Answered], values: Sequence[float]) -> NDArray[np.float64]:
    """Return the mean of values, each prompt counting once, [1 + resamples]: first of the prompts as they are.

    Then of prompts drawn with replacement, the same for every outcome of one plan. A draw that holds no prompt that was kept
    has the first mean.

    Args:
        answered: outcomes of a plan.
        values: of the answers; what is there of one that was lost counts for nothing.

    Raises:
        UncoveredError: no answer was kept.
    """
    by = ByPrompt.of(answered)
    if not by.kept.any():
        raise UncoveredError(f"no answer stays inside the recorded graphs; {ADVICE}")
    kept = np.array([a.metrics is not None for a in answered])
    means = np.bincount(by.place, np.where(kept, values, 0.0), minlength=len(by.prompts)) / np.maximum(by.kept, 1)
    return _over_draws(means, by.weights)


def resampled_means(values: NDArray[np.float64], prompts: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the mean of values of answers, each prompt counting once, over the same draws as :func:`resampled`, [1 + resamples].

    Args:
        values: [answers].
        prompts: [answers]; those of a plan of which none was lost.
    """
    _, place = np.unique(prompts, return_inverse=True)
    means = np.bincount(place, values) / np.bincount(place)
    return _over_draws(means, np.ones(len(means)))


def _over_draws(means: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weighted means: of the prompts as they are, then of prompts drawn with replacement."""
    drawn = _draws(len(means))
    total, stood_for = drawn @ (weights * means), drawn @ weights
    return np.where(stood_for > 0, total / np.maximum(stood_for, 1e-300), total[0] / stood_for[0])


@lru_cache(maxsize=8)
def _draws(count: int) -> NDArray[np.float64]:
    """How often each prompt is drawn, [1 + resamples, prompts]; first each once."""
    resampled = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    drawn = np.concatenate([np.ones((1, count)), resampled.astype(np.float64)])
    drawn.flags.writeable = False
    return drawn
