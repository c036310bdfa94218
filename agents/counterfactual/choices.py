"""A policy that takes one action at each state, asked only where it is come to: its courses, its values, what else could be done.

A greedy policy comes to a hundredth of the states that a batch has, so that one which is slow to ask (trees.py) can be valued
exactly all the same. What does not live here: the passes that value it (batch.py), and who chooses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agents.counterfactual.batch import Batch, Gains
from agents.counterfactual.learning import Rule
from synera_env.schema import Schema
from synera_env.synera.decisions.drafts import ASKED
from synera_env.synera.decisions.scenarios import Scenarios
from synera_env.synera.decisions.sight import Sight

END, UNKNOWN = -1, -2
"""Where an action leads that is no state: to the answer's end, and to what was not recorded."""
ANSWERS_AT_ONCE = 128
"""Whose observations are held together."""


class Scorer(Protocol):
    """Says what is thought of each action."""

    def scores(self, observations: NDArray[np.float32]) -> NDArray[np.floating]:
        """[batch, entries] to [batch, actions]: the higher, the better."""
        ...


@dataclass(frozen=True)
class RuleScorer:
    """A fixed rule of the process as a scorer."""

    rule: Rule
    schema: Schema
    ways: int

    def scores(self, observations: NDArray[np.float32]) -> NDArray[np.floating]:
        """See :class:`Scorer`: 1 for what the rule does."""
        confidence = observations[:, self.schema.places("least_confidence")[0]]
        action = self.rule.way + self.ways * (confidence < self.rule.threshold)
        return np.eye(2 * self.ways)[action]


@dataclass(eq=False)
class Courses:
    """Those of a policy in a batch: of the best scored actions that can be taken."""

    batch: Batch
    seen: NDArray[np.float32]
    """[states of the batch, entries]"""
    scorer: Scorer
    _action: NDArray[np.int64] = field(init=False)
    """[states of the batch]: -1 where nobody has asked yet."""

    def __post_init__(self) -> None:
        self._action = np.full(self.batch.states, -1, np.int64)

    @property
    def roots(self) -> NDArray[np.int64]:
        """[answers]: places of the first drafts."""
        s, prompts = self.batch.work.process.states, self.batch.prompts
        return s.root[prompts] - s.first[prompts] + self.batch.at

    def next(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :func:`next_of`."""
        return next_of(self.batch, places)

    def choose(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The actions at states, [places]."""
        new = np.unique(places[self._action[places] < 0])
        if len(new):
            possible = self.next(new) != UNKNOWN
            self._action[new] = np.where(possible, self.scorer.scores(self.seen[new]), -np.inf).argmax(1)
        return self._action[places]

    def follow(self, places: NDArray[np.int64]) -> None:
        """Choose at states and at all that the choices lead to."""
        while len(places := np.unique(places[self._action[places] < 0])):
            led = self.next(places)[np.arange(len(places)), self.choose(places)]
            places = led[led >= 0]

    def explore(self, walks: int, share: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """Walk from each first draft so many times, with a share of the actions drawn of all that can be taken; return how often each
        state was come to in an answer, [states of the batch].
        """
        visits, at = np.zeros(self.batch.states), np.repeat(self.roots, walks)
        while len(at):
            np.add.at(visits, at, 1 / walks)
            led = self.next(at)
            any_of = np.where(led == UNKNOWN, -1.0, rng.random(led.shape)).argmax(1)
            action = np.where(rng.random(len(at)) < share, any_of, self.choose(at))
            at = led[np.arange(len(at)), action]
            at = at[at >= 0]
        return visits

    def value(self) -> NDArray[np.float64]:
        """What each answer is worth, [answers]."""
        self.follow(self.roots)
        return self.batch.value(self._policy()).answers

    def gains(self, visits: NDArray[np.float64]) -> Gains:
        """What each action gains over the chosen one at the states that are visited, if the policy goes on from there."""
        here = np.flatnonzero(visits)
        led = self.next(here)
        self.follow(np.concatenate([here, led[led >= 0]]))
        valued = self.batch.value(self._policy())
        return self.batch.gains(valued._replace(visits=visits), np.finfo(float).tiny)

    def _policy(self) -> NDArray[np.float64]:
        """One-hot where it was asked; what is zero elsewhere is worth nothing, and nowhere led to."""
        policy = np.zeros((self.batch.states, len(self.batch.work.process.actions.knobs)))
        known = np.flatnonzero(self._action >= 0)
        policy[known, self._action[known]] = 1.0
        return policy


def next_of(batch: Batch, places: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where each action leads from states of a batch, [places, actions]; END or UNKNOWN where that is no state."""
    s = batch.work.process.states
    answer = np.searchsorted(batch.at, places, side="right") - 1
    shift = batch.at[answer] - s.first[batch.prompts[answer]]
    state = places - shift
    asked = np.full(len(places), ASKED, np.int64)
    sides = (s.keep[state], s.layer[state].astype(np.int64)), (s.check[state], asked)
    return np.concatenate([_led(s.ended, s.state, node, layer, shift) for node, layer in sides], 1)


def _led(
    ended: NDArray[np.bool_],
    state: NDArray[np.int32],
    node: NDArray[np.int32],
    layer: NDArray[np.int64],
    shift: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Where the ways of going on from nodes lead, [places, ways]."""
    known = np.maximum(node, 0)
    following = state[known, :, layer].astype(np.int64)
    led = np.where(following >= 0, following + shift[:, None], UNKNOWN)
    led[ended[known]] = END
    led[node < 0] = UNKNOWN
    return led


def course_values(sight: Sight, scorer: Scorer, prompts: NDArray[np.int64], scenarios: Scenarios) -> NDArray[np.float64]:
    """Return what a policy's answers are worth, [answers]: exactly, in the decision process.

    Args:
        sight: of the process.
        scorer: of whose actions the best is taken, of those whose outcome was recorded.
        prompts: [answers].
        scenarios: of each answer.
    """
    found = np.empty(len(prompts))
    for begin in range(0, len(prompts), ANSWERS_AT_ONCE):
        part = slice(begin, begin + ANSWERS_AT_ONCE)
        batch = Batch.of(sight.work, prompts[part], scenarios.part(part))
        found[part] = Courses(batch, sight.observe(batch.prompts, batch.scenarios), scorer).value()
    return found
