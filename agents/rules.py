"""First-class baselines: rules that set the same knobs at every chunk, a random one, and the search for the best fixed."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from synera_env import MAX_DRAFT_LENGTH, Knobs
from synera_env.synera.env import SyneraReplayEnv
from synera_env.synera.schema import Encoder

NEVER = Knobs(offload_budget=0.0)
"""The SLM alone, at full depth."""
ALWAYS = Knobs(confidence_threshold=1.0, offload_budget=1.0, draft_length=4)
"""Every chunk of four is checked: the LLM's own answer."""
DEFAULT_FIXED = Knobs(confidence_threshold=0.7, offload_budget=1.0, draft_length=4)
"""A hand-set threshold, unsearched."""


class FixedRule:
    """The same knobs at every chunk; looks at nothing."""

    def __init__(self, knobs: Knobs, encoder: Encoder) -> None:
        self.knobs = knobs
        self._action = encoder.action(knobs)

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`."""
        return np.broadcast_to(self._action, (*np.shape(observation)[:-1], len(self._action))).copy(), state


class RandomRule:
    """Uniform actions; the episode's seed, given as its first state, fixes them."""

    def __init__(self, encoder: Encoder, seed: int = 0) -> None:
        self._size, self._seed = (encoder.action_space.shape or (0,))[0], seed

    def predict(
        self, observation: Any, state: Any = None, episode_start: NDArray[np.bool_] | None = None, deterministic: bool = False
    ) -> tuple[NDArray[np.float32], Any]:
        """See :class:`agents.base.Controller`."""
        rng = state if isinstance(state, np.random.Generator) else np.random.default_rng([self._seed, int(state or 0)])
        return rng.uniform(-1, 1, (*np.shape(observation)[:-1], self._size)).astype(np.float32), rng


def threshold_grid(exits: int) -> list[Knobs]:
    """Return the fixed settings that the search tries: thresholds, draft length, exit, early-exit margin."""
    grid = [
        Knobs(confidence_threshold=t, exit_index=e, draft_length=g, offload_budget=1.0)
        for t, g, e in itertools.product((0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97), (1, 2, 4, MAX_DRAFT_LENGTH), range(exits))
    ]
    grid += [
        Knobs(confidence_threshold=t, exit_margin=m, draft_length=g, offload_budget=1.0)
        for t, g, m in itertools.product((0.5, 0.7, 0.9), (1, 4), (0.7, 0.9, 0.98))
    ]
    grid += [
        Knobs(confidence_threshold=t, importance_threshold=i, draft_length=4, offload_budget=b)
        for t, i, b in itertools.product((0.7, 0.9), (0.0, 0.5), (0.25, 0.5))
    ]
    return [*grid, NEVER, ALWAYS]


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a grid search."""

    knobs: Knobs
    reward: float
    """Mean on all episodes of the search."""
    tried: int


def search_fixed(
    evaluate: Callable[[Sequence[Knobs], int], NDArray[np.float64]], grid: Sequence[Knobs], episodes: int, first_round: int = 24
) -> SearchResult:
    """Find the best fixed knobs by successive halving.

    Args:
        evaluate: (settings, episodes) to the mean reward of each setting on the same first episodes.
        grid: settings to try.
        episodes: episodes of the last round.
        first_round: episodes of the first; doubled while the settings are halved.
    """
    left, count = list(grid), min(first_round, episodes)
    while True:
        rewards = evaluate(left, count)
        order = np.argsort(-rewards)
        if count >= episodes or len(left) == 1:
            return SearchResult(left[order[0]], float(rewards[order[0]]), len(grid))
        left = [left[i] for i in order[: max(2, len(left) // 3)]]
        count = min(2 * count, episodes)


def grid_search(env: SyneraReplayEnv, episodes: int, seed: int = 0) -> SearchResult:
    """Search the best fixed knobs for the default preference on an environment's prompts and links."""
    from agents.evaluation import evaluate, make_plan

    plan = make_plan(env, episodes, seed)

    def mean_rewards(settings: Sequence[Knobs], count: int) -> NDArray[np.float64]:
        return np.array([np.mean([e.reward for e in evaluate(env, FixedRule(k, env.encoder), plan[:count])]) for k in settings])

    return search_fixed(mean_rewards, threshold_grid(env.encoder.exits), episodes)
