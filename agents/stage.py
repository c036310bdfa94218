"""Plans in the worlds of scenarios, and compiled rows to answer them.

What does not live here: scenarios and their worlds (synera_env/mixes.py), and who answers (contest.py).
"""

from __future__ import annotations

from functools import cache, lru_cache

from agents.evaluation import PlannedAnswer, make_plan
from agents.rows import MOST_ROWS, Rows
from synera_env import SyneraReplayEnv
from synera_env.mixes import Scenario, Worlds

_OPEN = 4  # worlds at a time, as each copies the nodes of graphs that grow


class Stage:
    """The same plan of prompts in every scenario."""

    def __init__(self, worlds: Worlds, answers: int, seed: int = 0) -> None:
        """See the class.

        Args:
            worlds: of the scenarios.
            answers: of each plan.
            seed: of the plans.
        """
        self.answers, self._worlds, self._seed = answers, worlds, seed
        self._plan = cache(self._planned)
        self._rows = lru_cache(maxsize=_OPEN)(self._opened_rows)

    def env(self, scenario: Scenario) -> SyneraReplayEnv:
        """The world of a scenario."""
        return self._worlds.env(scenario)

    def rows(self, scenario: Scenario) -> Rows:
        """The same, to answer plans in."""
        return self._rows(self.env(scenario))

    def plan(self, scenario: Scenario) -> list[PlannedAnswer]:
        """The answers of a scenario; all have the same prompts in the same order, and the same draws as far as links are alike."""
        return self._plan(scenario)

    def _planned(self, scenario: Scenario) -> list[PlannedAnswer]:
        return make_plan(self.env(scenario), self.answers, self._seed, scenario.weights)

    def _opened_rows(self, env: SyneraReplayEnv) -> Rows:
        return Rows(env, min(self.answers, MOST_ROWS))
