"""What a training begins from: another controller that is imitated, or the network of a counterfactual training.

Imitation is behaviour cloning on the states that the controller comes to, then on those that the learner comes to itself, named by
the controller all the same (DAgger, Ross et al. 2011). Then agents with a value function have it fitted to what the learner's
answers earn, as one that knows nothing would undo in its first updates what was learned.

What does not live here: the agents (algorithms.py), and how they go on (run.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv
from torch.nn import functional as F

from agents import networks
from agents.base import Controller, Learner, Seeded
from agents.callbacks import scalings
from agents.learning.adoption import adopt, check_adopts, network_of
from agents.learning.algorithms import chooses, clonable
from agents.learning.choices import choice_table
from agents.learning.recipe import Recipe
from agents.registry import controller
from runtime.settings import shown
from synera_env import Schema, SettingError

_ROUNDS = 4
"""Of gathering: the first by the controller, the others more and more by the learner."""
_DECISIONS = 8_192
"""Of a round."""
_GRADIENTS = 400
"""After each round, on all that was gathered."""
_BATCH = 512
_RATE = 2e-3
_SMOOTHING = 0.05
"""Of cloning: all choices stay likely enough to be learned of."""
_VALUE_GRADIENTS = 400


@dataclass(frozen=True)
class Beginning:
    """One of two."""

    imitate: str | None = None
    """A controller, as :func:`agents.registry.controller` takes it."""
    network: Path | None = None
    """Folder of a finished counterfactual run, whose network PPO of choices begins with."""

    def __post_init__(self) -> None:
        if (self.imitate is None) == (self.network is None):
            raise SettingError("a training begins from a controller (--imitate) or from a run (--begin-from), not from both")
        if self.network is not None:
            network_of(self.network)

    def check(self, recipe: Recipe, schema: Schema) -> None:
        """Do nothing if an agent can begin so.

        Raises:
            SettingError: it cannot, or the controller cannot be imitated.
            TraceError, BundleError: the controller is missing or damaged.
        """
        _require_clonable(recipe)
        if self.imitate is not None:
            _imitable(self.imitate, schema)
        elif self.network is not None:
            check_adopts(recipe, network_of(self.network))

    def as_stated(self) -> dict[str, str]:
        """Return it as plain data."""
        return {"network": str(self.network)} if self.imitate is None else {"imitate": self.imitate}

    def begin(self, model: BaseAlgorithm, recipe: Recipe, stepped: VecEnv, schema: Schema) -> NDArray[np.float32]:
        """Fit an untrained agent.

        Args:
            model: the agent.
            recipe: how it is trained after that.
            stepped: its environments; reset when they are stepped next.
            schema: of the decisions.

        Returns:
            What was met: of each entry the least and the most, [2, entries].

        Raises:
            SettingError: the agent cannot begin so, or the controller cannot be imitated.
            TraceError, BundleError: the controller is missing or damaged.
        """
        _require_clonable(recipe)
        table = choice_table(schema) if chooses(recipe.settings) else None
        gathering = _Gathering(model, stepped, table)
        if self.imitate is not None:
            cloned = _imitable(self.imitate, schema)
            met = _clone(gathering, cloned, recipe.seed)
        else:
            assert self.network is not None
            adopt(model, recipe, network_of(self.network))
            met = gathering.go(None, 0.0, _DECISIONS, np.random.default_rng(recipe.seed)).observations
        if isinstance(model, OnPolicyAlgorithm):
            fit_values(model, gathering.go(None, 0.0, _DECISIONS, np.random.default_rng(recipe.seed + 1)))
        return np.stack([met.min(0), met.max(0)])


def _require_clonable(recipe: Recipe) -> None:
    if not clonable(recipe):
        raise SettingError(f"{recipe.agent} has no network that another controller could be put into; begin with another agent")


class Gathered(NamedTuple):
    """Decisions, whole answers only where returns are asked for."""

    observations: NDArray[np.float32]
    """[decisions, entries]"""
    returns: NDArray[np.float32]
    """[decisions]: what the answer earned from there on; NaN where it was not over, or left the recorded graphs."""


class _Gathering:
    """Decisions in the environments of an agent."""

    def __init__(self, model: BaseAlgorithm, stepped: VecEnv, table: NDArray[np.float32] | None) -> None:
        self.model, self.table = model, table
        self._stepped = stepped

    def go(self, teacher: Controller | None, share: float, decisions: int, rng: np.random.Generator) -> Gathered:
        """Step until so many decisions were taken.

        Args:
            teacher: takes its share of them.
            share: 0..1; the agent, drawing as it does in training, takes the others.
            decisions: how many, of all rows.
            rng: draws who decides.
        """
        seen: Any = self._stepped.reset()
        rows, rewards, over, left = [], [], [], []
        for _ in range(-(-decisions // len(seen))):
            actions, _ = self.model.predict(seen)
            if teacher is not None:
                taught = labels(teacher, seen, self.table)
                picks = rng.random(len(seen)) < share
                actions = np.where(picks if actions.ndim == 1 else picks[:, None], taught, actions)
            rows.append(seen)
            seen, paid, done, infos = self._stepped.step(actions)
            rewards.append(paid)
            over.append(done)
            left.append(np.array([bool(info.get("uncovered")) for info in infos]) & done)
        return Gathered(np.concatenate(rows), _returns(np.stack(rewards), np.stack(over), np.stack(left)).ravel())


def labels(teacher: Controller, observations: NDArray[np.float32], table: NDArray[np.float32] | None) -> NDArray[Any]:
    """Return what a controller does, [decisions, knobs]; or the numbers of the nearest choices, [decisions]."""
    actions, _ = teacher.predict(observations, deterministic=True)
    if table is None:
        return actions
    return np.abs(actions[:, None] - table).sum(-1).argmin(1)


def _returns(rewards: NDArray[np.float32], over: NDArray[np.bool_], left: NDArray[np.bool_]) -> NDArray[np.float32]:
    found = np.empty_like(rewards)
    after = np.full(rewards.shape[1], np.nan, np.float32)
    for step in range(len(rewards) - 1, -1, -1):
        after = np.where(left[step], np.nan, np.where(over[step], 0.0, after))
        after = found[step] = rewards[step] + after
    return found


def _imitable(name: str, schema: Schema) -> Controller:
    teacher = controller(name, schema)
    if isinstance(teacher, Seeded | Learner):
        raise SettingError(
            f"{shown(name)} cannot be imitated, as it draws or learns while it answers; name one that decides by what it sees"
        )
    return teacher


def _clone(gathering: _Gathering, teacher: Controller, seed: int) -> NDArray[np.float32]:
    """Gather and fit in turns; return all observations."""
    policy, rng = gathering.model.policy, np.random.default_rng([seed, 31])
    optimizer = torch.optim.Adam(policy.parameters(), lr=_RATE)
    seen, wanted = [], []
    for number in range(_ROUNDS):
        share = 1.0 - number / max(_ROUNDS - 1, 1)
        found = gathering.go(teacher, share, _DECISIONS, rng).observations
        seen.append(found)
        wanted.append(labels(teacher, found, gathering.table))
        _descend(policy, optimizer, np.concatenate(seen), np.concatenate(wanted), rng)
    return np.concatenate(seen)


def _descend(
    policy: Any,
    optimizer: torch.optim.Optimizer,
    seen: NDArray[np.float32],
    wanted: NDArray[Any],
    rng: np.random.Generator,
) -> None:
    """Squared error of mean knobs; cross-entropy of choices."""
    acts, observations, targets = networks.network_of(policy).module, torch.from_numpy(seen), torch.from_numpy(wanted)
    for each in scalings(policy):
        each.has_seen(seen.min(0), seen.max(0))
    for _ in range(_GRADIENTS):
        some = torch.from_numpy(rng.integers(len(observations), size=_BATCH))
        found, target = acts(observations[some]), targets[some]
        if target.is_floating_point():
            loss = F.mse_loss(found, target)
        else:
            loss = F.cross_entropy(found, target, label_smoothing=_SMOOTHING)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def fit_values(model: OnPolicyAlgorithm, gathered: Gathered) -> None:
    """Fit an agent's value function, and nothing else of it, to what answers earned."""
    known = ~np.isnan(gathered.returns)
    if not known.any():
        return
    observations, returns = (torch.from_numpy(each[known]) for each in gathered)
    policy = model.policy
    own = [*policy.mlp_extractor.value_net.parameters(), *policy.value_net.parameters()]  # type: ignore[operator, union-attr]
    optimizer, draw = torch.optim.Adam(own, lr=_RATE), torch.Generator().manual_seed(0)
    for _ in range(_VALUE_GRADIENTS):
        some = torch.randint(len(observations), (_BATCH,), generator=draw)
        loss = F.mse_loss(policy.predict_values(observations[some])[:, 0], returns[some])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
