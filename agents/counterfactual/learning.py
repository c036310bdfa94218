"""All-action policy gradients: a step looks at every action of every state that matters, so nothing of it is luck but the batch.

What does not live here: values and visits (batch.py), the run around the steps (run.py).

The gradient of what an answer is worth, with respect to the weights (logits) z of a state's actions, is exactly
`visits(s) * p(a|s) * (Q(s, a) - V(s))` (the policy gradient theorem, Sutton et al. 2000, summed over all actions and states instead of
sampled), with p over those actions whose outcome is known. An entropy bonus at each state, by its visits, is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from agents.counterfactual.batch import Batch, Gains, Valued
from agents.counterfactual.policy import ChoiceNet
from agents.counterfactual.scenarios import Ranges, Scenarios
from agents.counterfactual.sight import Sight

LEAST_VISITS = 3e-4
"""States that an answer comes to less often have no part in a gradient."""
_CLIP = 1.0
_LEAST = 1e-30


class Stepped(NamedTuple):
    """What a step saw, before it changed the policy."""

    value: float
    """Mean worth of an answer."""
    entropy: float
    """Mean nats of the decisions of an answer."""
    decisions: float
    """Mean of an answer."""
    outside: float
    """How often an answer's policy would have done what was not recorded."""
    clairvoyant: float
    """Mean worth of the best known course of the same answers."""


@dataclass(frozen=True)
class Rule:
    """The fixed rule that training begins from: ask where the least confident token is below a threshold, draft in one way."""

    threshold: float
    way: int
    value: float
    """Mean worth of an answer, in the reduced model."""


def draw_batch(sight: Sight, ranges: Ranges, answers: int, rng: np.random.Generator) -> tuple[Batch, NDArray[np.float32]]:
    """Draw answers, of prompts each of which comes once before any comes twice; and what is seen of their states."""
    startable = sight.work.process.startable
    rounds = [rng.permutation(startable) for _ in range(-(-answers // len(startable)))]
    prompts = np.concatenate(rounds)[:answers]
    scenarios = Scenarios.draw(ranges, answers, rng)
    return Batch.of(sight.work, prompts, scenarios), sight.observe(prompts, scenarios)


def logit_gradient(gains: Gains, valued: Valued, policy: NDArray[np.floating], entropy: float) -> NDArray[np.float64]:
    """Return the gradient of the mean worth of an answer, and of its entropy times a weight, by the logits, [found, actions].

    Args:
        gains: where the policy comes.
        valued: the policy.
        policy: [states of the batch, actions] probabilities.
        entropy: weight of the bonus for each nat of each decision; it is no part of the values, so it does not look ahead.
    """
    shares, bonus = _known_shares(gains, valued, policy)
    push = shares * (np.nan_to_num(gains.gains) + entropy * bonus)
    return valued.visits[gains.states][:, None] * push / len(valued.answers)


def _known_shares(gains: Gains, valued: Valued, policy: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Probabilities among what can be done, and how far each action's surprise is above the mean, [found, actions] both."""
    known = ~np.isnan(gains.gains)
    inside = np.maximum(valued.inside[gains.states], _LEAST)[:, None]
    shares = np.where(known, policy[gains.states] / inside, 0.0)
    surprise = -np.log(np.maximum(shares, _LEAST))
    return shares, np.where(known, surprise - (shares * surprise).sum(1, keepdims=True), 0.0)


class Learner:
    """The policy under training, its optimizer, and its random numbers."""

    def __init__(self, net: ChoiceNet, sight: Sight, ranges: Ranges, learning_rate: float, seed: int) -> None:
        """See the class.

        Args:
            net: the policy.
            sight: of the process to train on.
            ranges: of scenarios.
            learning_rate: of AdamW.
            seed: of all draws.
        """
        self.net, self.sight, self.ranges = net, sight, ranges
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=1e-2)
        self.rng = np.random.default_rng([seed, 23])

    def step(self, answers: int, entropy: float, learning_rate: float) -> Stepped:
        """Draw a batch, and take one step up its gradient."""
        batch, seen = draw_batch(self.sight, self.ranges, answers, self.rng)
        self.net.saw(seen)
        policy = self.net.probabilities(seen)
        valued = batch.value(policy)
        gains = batch.gains(valued, LEAST_VISITS)
        gradient = logit_gradient(gains, valued, policy, entropy)
        self._climb(seen[gains.states], gradient, learning_rate)
        return self._summary(batch, valued, gains, policy)

    def _climb(self, seen: NDArray[np.float32], gradient: NDArray[np.float64], learning_rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad()
        self.net(torch.from_numpy(seen)).backward(torch.from_numpy(-gradient.astype(np.float32)))
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), _CLIP)
        self.optimizer.step()

    @staticmethod
    def _summary(batch: Batch, valued: Valued, gains: Gains, policy: NDArray[np.float32]) -> Stepped:
        shares, _ = _known_shares(gains, valued, policy)
        nats = -(shares * np.log(np.maximum(shares, _LEAST))).sum(1)
        visits = valued.visits[gains.states]
        best, _ = batch.clairvoyant()
        return Stepped(
            value=float(valued.answers.mean()),
            entropy=float(visits @ nats / visits.sum()),
            decisions=float(valued.visits.sum() / len(batch.prompts)),
            outside=valued.outside,
            clairvoyant=float(best.mean()),
        )

    def imitate(self, rule: Rule, steps: int, answers: int, rows: int = 4096) -> None:
        """Begin from a fixed rule: learn to choose as it does at the states of drawn batches."""
        confidence = self.sight.schema.places("least_confidence")[0]
        ways = self.sight.work.process.actions.ways
        for step in range(steps):
            if step % _REUSED == 0:
                _, seen = draw_batch(self.sight, self.ranges, answers, self.rng)
                self.net.saw(seen, first=step == 0)
            chosen = seen[self.rng.integers(len(seen), size=rows)]
            action = torch.from_numpy(rule.way + ways * (chosen[:, confidence] < rule.threshold))
            self.optimizer.zero_grad()
            torch.nn.functional.cross_entropy(self.net(torch.from_numpy(chosen)), action, label_smoothing=_SMOOTHING).backward()
            self.optimizer.step()


_REUSED = 20  # steps of imitation on one batch
_SMOOTHING = 0.1  # all actions stay likely enough to be learned of


def best_rule(sight: Sight, ranges: Ranges, answers: int, rng: np.random.Generator) -> Rule:
    """Return the best fixed rule over drawn answers, in the reduced model."""
    batch, seen = draw_batch(sight, ranges, answers, rng)
    confidence = seen[:, sight.schema.places("least_confidence")[0]]
    rules = [
        Rule(threshold, way, float(batch.rule(confidence < threshold, way).mean()))
        for threshold in THRESHOLDS
        for way in range(sight.work.process.actions.ways)
    ]
    return max(rules, key=lambda rule: rule.value)


THRESHOLDS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 1.01)
"""Of fixed rules; the last always asks."""
