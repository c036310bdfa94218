"""A batch of answers, each of a prompt in a scenario: values, visits, advantages, the clairvoyant's plan, fixed rules.

What does not live here: the passes (passes.py), and whose probabilities they are given (learning.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents.counterfactual import passes
from synera_env.synera.decisions.prices import Prices, Work
from synera_env.synera.decisions.scenarios import Scenarios


class Valued(NamedTuple):
    """A policy in a batch."""

    answers: NDArray[np.float64]
    """[answers]: what each is worth."""
    values: NDArray[np.float64]
    """[states of the batch]: what is earned from there on."""
    inside: NDArray[np.float64]
    """[states of the batch]: probability of the actions that can be taken."""
    visits: NDArray[np.float64]
    """[states of the batch]: how often a state is come to in an answer."""
    ends: NDArray[np.float64]
    """[answers]: how often it ends, which is once."""

    @property
    def outside(self) -> float:
        """How often an answer's policy would take an action whose outcome was not recorded."""
        return float((self.visits * (1 - self.inside)).sum() / len(self.answers))


class Gains(NamedTuple):
    """Advantages of all actions where a policy comes."""

    states: NDArray[np.int64]
    """[found]: places in the batch."""
    gains: NDArray[np.float64]
    """[found, actions]: over the state's value; NaN for what cannot be done."""


@dataclass(frozen=True, eq=False)
class Batch:
    """See the module."""

    work: Work
    prompts: NDArray[np.int64]
    """[answers]"""
    scenarios: Scenarios
    prices: Prices
    at: NDArray[np.int64]
    """[answers]: where the states of each begin."""
    states: int
    """Of all answers."""

    @classmethod
    def of(cls, work: Work, prompts: NDArray[np.integer] | Sequence[int], scenarios: Scenarios) -> Batch:
        """Lay the answers' states one after the other.

        Raises:
            ValueError: there are not as many scenarios as prompts, or a prompt has no states.
        """
        chosen, s = np.asarray(prompts, np.int64), work.process.states
        if len(chosen) != len(scenarios):
            raise ValueError(f"{len(chosen)} prompts and {len(scenarios)} scenarios: there must be as many")
        if (s.root[chosen] < 0).any():
            raise ValueError(
                f"prompt {chosen[s.root[chosen] < 0][0]} has no states: its first chunk, or any end, was not recorded"
            )
        counts = s.first[chosen + 1] - s.first[chosen]
        return cls(work, chosen, scenarios, work.prices(chosen, scenarios), np.cumsum(counts) - counts, int(counts.sum()))

    @property
    def _layout(self) -> tuple[object, Prices, NDArray[np.int64], NDArray[np.int64]]:
        return self.work.process.states, self.prices, self.prompts, self.at

    def _answers(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        s = self.work.process.states
        return values[s.root[self.prompts] - s.first[self.prompts] + self.at] - self.prices.start

    def value(self, policy: NDArray[np.floating]) -> Valued:
        """Value a policy, [states of the batch, actions] probabilities."""
        inside, values, visits = np.empty((3, self.states))
        states, _, prompts, at = self._layout
        passes.evaluate(*self._layout, policy, inside, values)
        ends = passes.visit(states, prompts, at, policy, inside, visits)
        return Valued(self._answers(values), values, inside, visits, ends)

    def gains(self, valued: Valued, least_visits: float = 0.0) -> Gains:
        """What each action gains where a valued policy comes at least so often in an answer."""
        count = int((valued.visits >= least_visits).sum())
        found, gains = np.empty(count, np.int64), np.empty((count, len(self.work.process.actions.knobs)))
        passes.advantages(*self._layout, valued.values, least_visits, valued.visits, found, gains)
        return Gains(found, gains)

    def clairvoyant(self) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """What the best of all recorded courses is worth, [answers], and the action of it at each state, [states of the batch].

        A bound for every policy of a closed graph; of a graph with holes the best that is known.
        """
        values, best = np.empty(self.states), np.empty(self.states, np.int64)
        passes.plan(*self._layout, values, best)
        return self._answers(values), best

    def planned(self) -> NDArray[np.float64]:
        """What the best recorded course from each state on is worth, [states of the batch]."""
        values, best = np.empty(self.states), np.empty(self.states, np.int64)
        passes.plan(*self._layout, values, best)
        return values

    def rule(self, asks: NDArray[np.bool_], way: int) -> NDArray[np.float64]:
        """What a rule is worth, [answers], that always drafts in one way; `asks` is whether it has a draft checked, [states of the batch]."""
        values = np.zeros(self.states)
        passes.follow(*self._layout, asks, way, values)
        return self._answers(values)
