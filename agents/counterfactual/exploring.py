"""Finding out what a policy under training would do next: it answers prompts in the full replay, whose graphs grow by what it does.

What does not live here: the growing (traces/synera/growing.py), and what is learned of what was found (learning.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from agents.counterfactual.policy import ChoiceNet
from synera_env import SyneraReplayEnv
from synera_env.synera.decisions.process import Actions
from synera_env.synera.decisions.scenarios import Ranges


@dataclass(frozen=True, eq=False)
class Explorer:
    """Answers prompts as a policy does that draws its actions."""

    env: SyneraReplayEnv
    """Over graphs that grow."""
    ranges: Ranges
    """What the training draws its scenarios from; links and preferences are those of `env`, which draws them likewise."""
    actions: Actions
    answers: int
    """At a time, each of another prompt as long as there are any."""
    random: float
    """Share of the actions that are any of all, so that more is known than what the policy is sure of."""
    seed: int

    def explore(self, net: ChoiceNet, number: int) -> None:
        """Answer once; the graphs grow, and nothing else changes.

        Args:
            net: the policy.
            number: of this exploration; each has draws of its own.
        """
        rng = np.random.default_rng([self.seed, 37, number])
        rows = self._world(rng).vector(self.answers, AutoresetMode.DISABLED)
        count = self.env.prompt_count
        prompts = np.concatenate([rng.permutation(count) for _ in range(-(-self.answers // count))])[: self.answers]
        seeds = rng.integers(2**32, size=self.answers).tolist()
        seen, _ = rows.reset(seed=seeds, options=[{"prompt": prompt} for prompt in prompts.tolist()])
        knobs, over = self.actions.matrix(self.env.schema), np.zeros(self.answers, np.bool_)
        while not over.all():
            seen, _, terminated, truncated, _ = rows.step(knobs[self._drawn(net, seen, rng)])
            over |= terminated | truncated

    def _world(self, rng: np.random.Generator) -> SyneraReplayEnv:
        """The environment, its cloud as busy as the ranges have it at times."""
        _, world = self.env.siblings(2)
        assert isinstance(world, SyneraReplayEnv)
        waits = self.ranges.load_spread ** rng.uniform(-1, 1)
        world.cloud = replace(world.cloud, queue_ms_quantiles=tuple(waits * each for each in world.cloud.queue_ms_quantiles))
        return world

    def _drawn(self, net: ChoiceNet, seen: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int64]:
        """The actions, [rows]."""
        shares = net.probabilities(seen)
        shares += self.random * (1 / shares.shape[1] - shares)
        drawn = rng.random((len(seen), 1)) * shares.sum(1, keepdims=True, dtype=np.float64)
        return (shares.cumsum(1) < drawn).sum(1).clip(max=shares.shape[1] - 1)
