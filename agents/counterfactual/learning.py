"""All-action policy gradients: a step looks at every action of every state that matters, so nothing of it is luck but the batch.

What does not live here: values and visits (batch.py), the run around the steps (run.py).

The gradient of what an answer is worth, with respect to the weights (logits) z of a state's actions, is exactly
`visits(s) * p(a|s) * (Q(s, a) - V(s))` (the policy gradient theorem, Sutton et al. 2000, summed over all actions and states instead of
sampled), with p over those actions whose outcome is known. A few steps are taken on each batch, up the surrogate that has this gradient
where it begins, with a bonus for the entropy of each decision. It is linear in Q on purpose: Q knows the outcome, the policy does
not, so weights such as exp(Q) would prefer what may go well to what goes well on the mean.

The surrogate is also the expected regret of single decisions, with a minus and up to a constant: cost-sensitive classification whose
labels, the exact regrets of all actions, are made anew at the states of the policy's own visits (DAgger, Ross et al. 2011; with costs
AggreVaTe, Ross and Bagnell 2014), but for the luck of sampling. Two other losses of the same labels are convex in the weights z:

* `cross-entropy`: `-sum_a (Q(s, a) - min_b Q(s, b)) log p(a|s)`, by visits;
* `regression`: `sum_a (z_a - Q(s, a) + V(s))^2`, by visits.

Both are linear in Q as far as it is unknown to the policy, so that on the mean the best action becomes the heaviest. Neither drives a
policy to be sure, so there visits and values are those of one that mostly takes its heaviest action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from agents.counterfactual.batch import Batch, Gains, Valued
from agents.counterfactual.policy import ChoiceNet
from synera_env.synera.decisions.scenarios import Ranges, Scenarios
from synera_env.synera.decisions.sight import Sight

LEAST_VISITS = 3e-4
"""States that an answer comes to less often have no part in a gradient."""
_CLIP = 1.0
_LEAST_LOG = -60.0
_NO_GAIN = 1e6
"""Of what cannot be done, when the worst is looked for."""
THRESHOLDS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 1.01)
"""Of the fixed rules that training may begin from; the last always asks."""
_REUSED = 20  # steps of imitation on one batch
_SMOOTHING = 0.1  # of imitation: all actions stay likely enough to be learned of
_GREEDY = 0.9
"""Share of the heaviest action, where the loss does not make a policy sure; the rest is by the softmax."""
_FAR = 0.03
"""Nats of a mean decision from which on the surrogate is not trusted."""


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


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a batch says of a policy, at the states that it comes to, as torch reads it."""

    seen: torch.Tensor
    """[found, entries]"""
    visits: torch.Tensor
    """[found]: in a mean answer of the batch."""
    gains: torch.Tensor
    """[found, actions]: over the state's value; 0 for what cannot be done."""
    known: torch.Tensor
    """[found, actions]: 0 for what can be done, minus infinity for what cannot."""

    @classmethod
    def of(cls, seen: NDArray[np.float32], valued: Valued, gains: Gains) -> Self:
        """Take it from a valued policy; `seen` are the observations of all states of the batch."""
        possible = ~np.isnan(gains.gains)
        parts = (
            seen[gains.states],
            valued.visits[gains.states] / len(valued.answers),
            np.nan_to_num(gains.gains),
            np.where(possible, 0.0, -np.inf),
        )
        return cls(*(torch.from_numpy(part.astype(np.float32)) for part in parts))

    def log_shares(self, net: ChoiceNet) -> torch.Tensor:
        """Log-probabilities among what can be done, [found, actions]; of what cannot, that of nearly nothing."""
        return torch.log_softmax(net(self.seen) + self.known, -1).clamp(min=_LEAST_LOG)

    def surrogate(self, log_shares: torch.Tensor) -> torch.Tensor:
        """What a policy near the valued one is worth more than it: sum of visits * p(a|s) * gain. Its gradient at the valued policy
        is that of the mean worth of an answer.
        """
        return (self.visits * (log_shares.exp() * self.gains).sum(1)).sum()

    def cross_entropy(self, log_shares: torch.Tensor) -> torch.Tensor:
        """See the module; each action weighs what it gains over the worst that can be done."""
        worst = (self.gains + (-self.known).clamp(max=_NO_GAIN)).amin(1, keepdim=True)
        weights = torch.where(self.known == 0, self.gains - worst, 0.0)
        return -(self.visits * (weights * log_shares).sum(1)).sum()

    def squares(self, weights: torch.Tensor) -> torch.Tensor:
        """See the module: by how much the weights of the actions, [found, actions], miss the gains."""
        missed = torch.where(self.known == 0, weights - self.gains, 0.0)
        return (self.visits * (missed**2).sum(1)).sum()

    def entropy(self, log_shares: torch.Tensor) -> torch.Tensor:
        """Nats of the decisions of an answer, each by its visits."""
        return -(self.visits * (log_shares.exp() * log_shares).sum(1)).sum()

    def divergence(self, before: torch.Tensor, after: torch.Tensor) -> float:
        """Mean nats of a decision by which a policy moved away."""
        with torch.no_grad():
            return float((self.visits * (before.exp() * (before - after)).sum(1)).sum() / self.visits.sum())


class Learner:
    """The policy under training, its optimizer, and its random numbers."""

    def __init__(
        self,
        net: ChoiceNet,
        sight: Sight,
        ranges: Ranges,
        learning_rate: float,
        weight_decay: float,
        seed: int,
        loss: str = "policy-gradient",
        future: str = "policy",
    ) -> None:
        """See the class.

        Args:
            net: the policy.
            sight: of the process to train on.
            ranges: of scenarios.
            learning_rate: of AdamW.
            weight_decay: likewise.
            seed: of all draws.
            loss: see :class:`agents.learning.settings.CounterfactualSettings`, likewise `future`.
            future: see there.
        """
        self.loss, self.future = loss, future
        self.net, self.sight, self.ranges = net, sight, ranges
        self.optimizer = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=weight_decay)
        self.rng = np.random.default_rng([seed, 23])

    def step(self, answers: int, epochs: int, entropy: float, learning_rate: float) -> Stepped:
        """Draw a batch, and take up to so many steps up its surrogate."""
        batch, seen = draw_batch(self.sight, self.ranges, answers, self.rng)
        self.net.saw(seen)
        valued = batch.value(self._shares(seen))
        ahead = valued if self.future == "policy" else valued._replace(values=batch.planned())
        evidence = Evidence.of(seen, valued, batch.gains(ahead, LEAST_VISITS))
        nats = self._climb(evidence, epochs, entropy, learning_rate)
        decisions = float(valued.visits.sum() / answers)
        best, _ = batch.clairvoyant()
        return Stepped(float(valued.answers.mean()), nats / decisions, decisions, valued.outside, float(best.mean()))

    def _shares(self, seen: NDArray[np.float32]) -> NDArray[np.floating]:
        """Of the actions, of the policy that is valued: see the module."""
        shares = self.net.probabilities(seen)
        if self.loss == "policy-gradient":
            return shares
        mixed = (1 - _GREEDY) * shares
        mixed[np.arange(len(seen)), shares.argmax(1)] += _GREEDY
        return mixed

    def _climb(self, evidence: Evidence, epochs: int, entropy: float, learning_rate: float) -> float:
        """Take steps up the surrogate, as long as they stay near; return the entropy of an answer before them."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        before, nats = torch.empty(0), 0.0
        for epoch in range(epochs):
            log_shares = evidence.log_shares(self.net)
            bonus = evidence.entropy(log_shares)
            if epoch == 0:
                before, nats = log_shares.detach(), bonus.item()
            elif self.loss == "policy-gradient" and evidence.divergence(before, log_shares) > _FAR:
                break
            self.optimizer.zero_grad()
            self._down(evidence, log_shares, entropy * bonus).backward()
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), _CLIP)
            self.optimizer.step()
        return nats

    def _down(self, evidence: Evidence, log_shares: torch.Tensor, bonus: torch.Tensor) -> torch.Tensor:
        """What a step makes smaller."""
        if self.loss == "cross-entropy":
            return evidence.cross_entropy(log_shares)
        if self.loss == "regression":
            return evidence.squares(self.net(evidence.seen))
        return -evidence.surrogate(log_shares) - bonus

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


def best_rule(sight: Sight, ranges: Ranges, answers: int, rng: np.random.Generator) -> Rule:
    """Return the best fixed rule over drawn answers, in the reduced model, of those that draft as few tokens at a time as there are.

    These decide at every token, and can learn from there what longer drafts are good for. A training that began from the rule worth
    most, with drafts of four, stayed with long drafts and 0.07 to 0.09 of reward below those that began here (bundled tasks; one seed,
    three).
    """
    batch, seen = draw_batch(sight, ranges, answers, rng)
    confidence = seen[:, sight.schema.places("least_confidence")[0]]
    actions = sight.work.process.actions
    lengths = [knobs.draft_length for knobs in actions.knobs[: actions.ways]]
    shortest = [way for way, length in enumerate(lengths) if length == min(lengths)]
    rules = [
        Rule(threshold, way, float(batch.rule(confidence < threshold, way).mean()))
        for threshold in THRESHOLDS
        for way in shortest
    ]
    return max(rules, key=lambda rule: rule.value)
