"""Fixed settings and rules of one level, tuned over scenarios: the best single one for all, and the best of each scenario.

On training prompts by successive halving, and confirmed on validation prompts, by compiled rows. What does not live here: the halving
itself and the search in one world (search.py), and what is fitted by other means (fitting.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from agents.base import Controller
from agents.comparison import ADVICE, ELIGIBLE, worth
from agents.registry import controller
from agents.rules import FixedRule
from agents.search import search_fixed
from agents.stage import Stage
from synera_env import Schema, UncoveredError
from synera_env.mixes import Scenario

FAMILIES: Mapping[str, Sequence[str]] = {
    "confidence": [f"confidence={level:g}" for level in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)],
    "margin": [f"margin={level:g}" for level in (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 0.9)],
    "entropy": [f"entropy={level:g}" for level in (0.1, 0.3, 0.5, 0.7, 1.0, 1.5)],
    "rejection": [f"rejection={h:g}" for h in (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)],
}
"""Rules of one level that are tuned to each scenario, and the levels tried; ours."""
FIXED = "fixed"


@dataclass(frozen=True)
class Tuned:
    """What was chosen of one family of candidates."""

    single: str
    """The best for all scenarios."""
    of_each: Mapping[str, str]
    """By scenario, the best in it."""
    rewards: Mapping[str, float]
    """By scenario, the mean reward of the best in it on validation prompts."""
    tried: int


def families(schema: Schema) -> dict[str, dict[str, Controller]]:
    """Return the candidates, by family and name: the grid of fixed knobs, and :data:`FAMILIES`."""
    fixed: dict[str, Controller] = {str(knobs): FixedRule(knobs, schema) for knobs in schema.grid()}
    levels = {name: {each: controller(each, schema) for each in several} for name, several in FAMILIES.items()}
    return {FIXED: fixed, **levels}


class Tuning:
    """Candidates on training and validation stages; what one earned in a scenario is figured out once."""

    def __init__(
        self,
        candidates: Mapping[str, Controller],
        train: Stage,
        validation: Stage,
        scenarios: Sequence[Scenario],
        finished: Callable[[], object] = lambda: None,
    ) -> None:
        """See the class.

        Args:
            candidates: by name.
            train: where they are ranked.
            validation: where the best are confirmed.
            scenarios: in which.
            finished: called after each scenario, and once more after the single best was chosen.
        """
        self._candidates, self._stages, self._scenarios = candidates, (train, validation), tuple(scenarios)
        self._finished = finished
        self._known: dict[tuple[int, str, str, int], float] = {}

    def tune(self) -> Tuned:
        """Choose.

        Raises:
            UncoveredError: in some scenario every finalist loses too many answers to be chosen.
        """
        of_each, rewards = {}, {}
        for scenario in self._scenarios:
            of_each[scenario.name], rewards[scenario.name] = self._best([scenario])
            self._finished()
        single, _ = self._best(self._scenarios)
        self._finished()
        return Tuned(single, of_each, rewards, len(self._candidates))

    def _best(self, scenarios: Sequence[Scenario]) -> tuple[str, float]:
        """The best over scenarios, each counting once; and its mean reward on validation."""
        names = list(self._candidates)

        def means(place: int, chosen: Sequence[str], count: int) -> NDArray[np.float64]:
            return np.mean([[self._worth(place, each, name, count) for name in chosen] for each in scenarios], axis=0)

        train, validation = self._stages
        finalists = search_fixed(partial(means, 0), names, train.answers).finalists
        confirmed = dict(zip(finalists, means(1, finalists, validation.answers).tolist(), strict=True))
        best = max(finalists, key=lambda name: confirmed[name])
        if not np.isfinite(confirmed[best]):
            raise UncoveredError(
                f"no candidate keeps {ELIGIBLE:.0%} of its answers inside the recorded graphs in {scenarios[0].name}; {ADVICE}"
            )
        return best, confirmed[best]

    def _worth(self, place: int, scenario: Scenario, name: str, count: int) -> float:
        key = (place, scenario.name, name, count)
        if key not in self._known:
            stage = self._stages[place]
            answered = stage.rows(scenario).answers(self._candidates[name], stage.plan(scenario)[:count])
            self._known[key] = worth(answered)
        return self._known[key]
