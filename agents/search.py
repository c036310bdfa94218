"""The search for the best fixed knobs of an environment, by successive halving over its schema's grid; and who wins on validation.

What does not live here: the grid (a schema's rows), what a setting is worth (evaluation.py), what else is fitted (fitting.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.base import Controller
from agents.comparison import ADVICE, ELIGIBLE, warn_uncovered, worth
from agents.evaluation import answer_all, make_plan
from agents.rules import FixedRule
from synera_env import DecisionEnv, Preference, UncoveredError

FINALISTS = 3
"""Candidates that go to validation."""


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search."""

    knobs: Any
    reward: float
    """Mean on all episodes of the search."""
    tried: int
    finalists: tuple[Any, ...] = field(default=(), compare=False)
    """The settings of the last round, the best first; validation may say otherwise."""


@dataclass(frozen=True)
class Chosen:
    """Which of some candidates is best on validation."""

    name: str
    train_reward: float
    validation_reward: float
    tried: int


def choose(
    candidates: Mapping[str, Controller],
    train: DecisionEnv,
    validation: DecisionEnv,
    answers: int,
    validation_answers: int,
    seed: int = 0,
    finished: Callable[[], object] = lambda: None,
) -> Chosen:
    """Choose on training prompts and confirm on validation: the best :data:`FINALISTS` of the first compete in the second.

    Validation goes by the plan that learned controllers are chosen by: that of `validation_answers` and the seed.

    Args:
        candidates: by name.
        train: where they are ranked.
        validation: where the best of them are.
        answers: of each candidate on training prompts.
        validation_answers: of each finalist.
        seed: of both plans.
        finished: called after each candidate, and each finalist.

    Raises:
        UncoveredError: every finalist loses too many answers to be chosen.
    """

    def worths(env: DecisionEnv, names: Sequence[str], count: int) -> dict[str, float]:
        plan, found = make_plan(env, count, seed), dict[str, float]()
        for name in names:
            found[name] = worth(answer_all(env, candidates[name], plan))
            finished()
        return found

    trained = worths(train, tuple(candidates), answers)
    finalists = sorted(trained, key=lambda name: -trained[name])[:FINALISTS]
    confirmed = worths(validation, finalists, validation_answers)
    best = max(finalists, key=lambda name: confirmed[name])
    if not np.isfinite(confirmed[best]):
        raise UncoveredError(f"no candidate keeps {ELIGIBLE:.0%} of its answers inside the recorded graphs; {ADVICE}")
    return Chosen(best, trained[best], confirmed[best], len(candidates))


def search_fixed(
    evaluate: Callable[[Sequence[Any], int], NDArray[np.float64]], grid: Sequence[Any], episodes: int, first_round: int = 96
) -> SearchResult:
    """Find the best fixed knobs by successive halving.

    Args:
        evaluate: (settings, episodes) to the mean reward of each setting on the same first episodes.
        grid: settings to try.
        episodes: episodes of the last round.
        first_round: episodes of the first; doubled while the settings are cut to a third.
    """
    left, count = list(grid), min(first_round, episodes)
    while True:
        rewards = evaluate(left, count)
        order = np.argsort(-rewards)
        if count >= episodes or len(left) == 1:
            finalists = tuple(left[i] for i in order[:FINALISTS])
            return SearchResult(left[order[0]], float(rewards[order[0]]), len(grid), finalists)
        left = [left[i] for i in order[: max(2, len(left) // 3)]]
        count = min(2 * count, episodes)


def grid_search(
    env: DecisionEnv,
    episodes: int,
    seed: int = 0,
    grid: Sequence[Any] | None = None,
    preference: Preference | None = None,
) -> SearchResult:
    """Search the best fixed knobs for a preference on an environment's prompts and links.

    What a setting is worth where answers leave the recorded graphs: see :func:`agents.comparison.worth`. Warns where the
    best setting loses many.

    Args:
        env: the world.
        episodes: episodes of the last round.
        seed: draws the plan.
        grid: settings to try; None takes the schema's.
        preference: of every answer; None is the default.

    Raises:
        UncoveredError: every setting loses too many answers to be chosen.
    """
    plan = make_plan(env, episodes, seed, preference)

    def mean_rewards(settings: Sequence[Any], count: int) -> NDArray[np.float64]:
        rules = [FixedRule(knobs, env.schema) for knobs in settings]
        return np.array([worth(answer_all(env, rule, plan[:count])) for rule in rules])

    found = search_fixed(mean_rewards, env.schema.grid() if grid is None else grid, episodes)
    if not np.isfinite(found.reward):
        raise UncoveredError(f"no fixed setting keeps {ELIGIBLE:.0%} of its answers inside the recorded graphs; {ADVICE}")
    best = FixedRule(found.knobs, env.schema)
    warn_uncovered("the search of the best fixed knobs", answer_all(env, best, plan))
    return found
