"""How likely controllers come to the nodes of a graph: a stated mixture of what controllers do, followed from node to child.

By it the recorder spends its budget (record_batch.py). What does not live here: graphs, budgets and models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from traces.synera.growing_graph import first_said

_CHUNK = 4.5  # tokens of a chunk, on the mean: where lengths are drawn from 1..8
_USUAL_DOUBT = 0.2  # of the least sure token of a chunk in which the LLM changes nothing


@dataclass(frozen=True)
class Habit:
    """One kind of controller."""

    weight: float
    """Share of the mixture; shares are held against each other."""
    exits: Literal["last", "shallow", "margin", "any"]
    """Where a token is drafted: at the last exit; at one before it; at the first whose margin reaches a level, else at the last;
    or so up to any exit. Levels are anything in 0..1, and the exit is chosen anew for each chunk."""
    always: float = 0.0
    """Share of chunks that are checked, whatever the SLM felt."""
    doubt: float = 0.0
    """Further share, times 1 - confidence of the token at stake."""


HABITS = (
    Habit(4, "last"),
    Habit(4, "last", always=1.0),
    Habit(4, "last", doubt=1.0),
    Habit(2, "last", always=0.3),
    Habit(4, "any", doubt=0.5),
    Habit(2, "margin", doubt=1.0),
    Habit(2, "margin"),
    Habit(1, "shallow", doubt=1.0),
    Habit(1, "shallow"),
)
"""Rules that check never, always, where in doubt, or at times; actions drawn at random; and rules that leave early.

Chosen by the share of steps inside graphs of a pair with free wording (16 prompts, 15 controllers): 200 nodes a prompt held
95 % on their mean, for which a source drawn anew at each token, the likelihood before, needed 1,600.
"""


class Mixture:
    """The habits over an SLM of so many exits.

    A *mass* is how likely controllers of each state come to a node, [2, states]: first those whose draft so far is what the
    LLM would say or stands unchecked, then those whose draft will be rejected at an earlier place, and who draft on until
    their chunk ends. A state is a habit that drafts up to one exit.
    """

    def __init__(self, exits: int, habits: Sequence[Habit] = HABITS) -> None:
        reach = {"last": [exits - 1], "margin": [exits - 1], "any": range(exits), "shallow": range(max(1, exits - 1))}
        states = [(i, habit, deepest) for i, habit in enumerate(habits) for deepest in reach[habit.exits]]
        owner = np.array([i for i, _, _ in states])
        same = owner[:, None] == owner
        self._redraw = same / same.sum(1, keepdims=True)  # [states, states]: a new chunk, its exit chosen anew
        self._deepest = np.array([deepest for _, _, deepest in states])
        self._early = np.array([habit.exits in ("margin", "any") for _, habit, _ in states])
        self._always, self._doubt = np.array([(habit.always, habit.doubt) for _, habit, _ in states]).T
        self._bonus = self._always + _USUAL_DOUBT * self._doubt
        weight = np.array([habit.weight for _, habit, _ in states]) / same.sum(1)
        self.start = np.stack([weight / weight.sum(), np.zeros(len(states))])
        """The mass of a prompt's own node; it sums to 1."""

    def children(
        self,
        mass: NDArray[np.floating],
        exit_token: NDArray[np.integer],
        llm_token: NDArray[np.integer],
        confidence: NDArray[np.floating],
        margin: NDArray[np.floating],
    ) -> NDArray[np.float64]:
        """Return the masses of the children of some nodes, [nodes, exits + 1, 2, states], in the order of the exits and the LLM.

        Where some say the same token the first of them has the child's whole mass, and the others nothing. No child is
        likelier than its node.

        Args:
            mass: of the nodes [nodes, 2, states].
            exit_token: [nodes, exits].
            llm_token: [nodes].
            confidence: [nodes, exits].
            margin: [nodes, exits].
        """
        clean, doomed = mass[:, 0], mass[:, 1]
        # A chunk ends here with its check, after which the LLM's token stands; or without one, and another begins.
        checked = clean * self._bonus / _CHUNK
        clean = clean - checked
        over = (1 - self._bonus) / (_CHUNK - self._bonus)
        clean = clean * (1 - over) + (clean * over) @ self._redraw
        leaves = self._leaves(margin)
        drafted, lost = clean[:, None] * leaves, (doomed * (1 - 1 / _CHUNK))[:, None] * leaves
        caught = np.minimum(1, self._always + self._doubt * (1 - confidence[..., None]))
        caught = np.where((exit_token == llm_token[:, None])[..., None], 0, caught)
        corrected = (drafted * caught).sum(1) + checked
        children = np.zeros((len(mass), exit_token.shape[1] + 1, *mass.shape[1:]))
        children[:, :-1, 0] = drafted * (1 - caught)
        children[:, :-1, 1] = drafted * caught + lost
        children[:, -1, 0] = corrected @ self._redraw
        return _joined(children, first_said(exit_token, llm_token))

    def _leaves(self, margin: NDArray[np.floating]) -> NDArray[np.float64]:
        """How likely each state drafts at each exit, [nodes, exits, states]."""
        reached = np.maximum.accumulate(margin, 1)
        before = np.concatenate([np.zeros((len(margin), 1)), reached[:, :-1]], 1)[..., None]  # the level that was not met
        exit_index = np.arange(margin.shape[1])[:, None]
        at_last = np.where(self._early, 1 - before, 1.0)
        earlier = np.where(self._early, reached[..., None] - before, 0.0)
        return np.where(exit_index == self._deepest, at_last, np.where(exit_index < self._deepest, earlier, 0.0))


def _joined(children: NDArray[np.float64], first: NDArray[np.intp]) -> NDArray[np.float64]:
    """Add the mass of each source to the first source that says the same token."""
    rows = np.arange(len(children))
    for source in range(1, children.shape[1]):
        again = first[:, source] < source
        children[rows[again], first[again, source]] += children[again, source]
        children[again, source] = 0
    return children
