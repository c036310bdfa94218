"""What watches a training: means over the episodes of each rollout in TensorBoard, validation, the range of what was met.

What does not live here: the training (learning/run.py) and what weights are worth (learning/judge.py).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.bundle import Seen
from agents.learning.judge import Judge
from agents.scalars import CONFIGURATION, Means, configuration_table
from agents.scaling import Scaling
from agents.vector import compiled
from synera_env import DecisionEnv


class EpisodeMeans(BaseCallback):
    """Logs, by rollout, the means of :class:`agents.scalars.Means`; and, once, how the run is configured."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        """See the class.

        Args:
            configuration: of the run, plain data.
        """
        super().__init__()
        self._configuration, self._means = configuration, Means()
        self._paid: defaultdict[int, list[Mapping[str, float]]] = defaultdict(list)
        """By environment, what the decisions of its answer under way earned."""
        self._earned: NDArray[np.float64] | None = None
        """The same of compiled ones, [terms, rows]."""

    def _on_training_start(self) -> None:
        self.logger.record(CONFIGURATION, configuration_table(self._configuration))

    def _on_step(self) -> bool:
        if (rows := compiled(self.training_env)) is not None:
            self._count_rows(rows.vectors)
            return True
        for env, (done, info) in enumerate(zip(self.locals["dones"], self.locals["infos"], strict=True)):
            self._means.decided(info["knobs"])
            self._paid[env].append(info["reward_terms"])
            if done:
                metrics, paid = info.get("episode_metrics"), self._paid.pop(env)
                for terms in paid if metrics is not None else ():  # half an answer would pass for a cheap one
                    self._means.paid(terms)
                self._means.ended(metrics)
        return True

    def _count_rows(self, vectors: Mapping[str, Any]) -> None:
        """The same for all rows at once."""
        self._means.decided_by_all(vectors["knobs"])
        terms = vectors["reward_terms"]
        earned = np.stack(list(terms.values()))
        self._earned = earned if self._earned is None else self._earned + earned
        over: NDArray[np.bool_] = self.locals["dones"]
        if not over.any():
            return
        inside = vectors["final_info"]["_episode_metrics"]
        metrics = vectors["final_info"]["episode_metrics"]
        self._means.paid(dict(zip(terms, self._earned[:, inside].sum(1).tolist(), strict=True)))
        self._means.all_ended({name: values[inside] for name, values in metrics.items()}, int((over & ~inside).sum()))
        self._earned[:, over] = 0.0

    def _on_rollout_end(self) -> None:
        for tag, value in self._means.take().items():
            self.logger.record(tag, value)


class WorthOfLeaving(BaseCallback):
    """Adds to the reward of a step that leaves the recorded graphs what its decision point was worth: stable-baselines3 does so, too,
    by asking the policy once more for each of these steps, one by one. As what is seen last of an answer that leaves is that very point,
    its value is at hand.
    """

    def _on_step(self) -> bool:
        infos = self.locals["infos"]
        left = [row for row in np.flatnonzero(self.locals["dones"]).tolist() if infos[row].get("uncovered")]
        self.locals["rewards"][left] += self.model.gamma * self.locals["values"][left, 0].numpy()  # type: ignore[attr-defined]
        for row in left:
            infos[row]["TimeLimit.truncated"] = False  # or it would be added twice
        return True


class GrowthRate(BaseCallback):
    """Logs, by rollout, what was added to the evidence of a world that grows; nothing for another."""

    def __init__(self, env: DecisionEnv) -> None:
        """See the class.

        Args:
            env: of the training, whose `growth` all its environments share.
        """
        super().__init__()
        self._env, self._rates = env, list[float]()
        self._before: tuple[Mapping[str, float], int, float] = ({}, 0, 0.0)
        self._began: tuple[Mapping[str, float], float] = ({}, 0.0)

    def totals(self) -> dict[str, Any]:
        """What the training came to, as plain data; nothing for a world that does not grow."""
        (before, began), now = self._began, self._env.growth()
        if not now:
            return {}
        share = (now["model_seconds"] - before["model_seconds"]) / max(time.monotonic() - began, 1e-9)
        return dict(now) | {"share_of_time_in_models": share, "new_nodes_per_step": self._rates}

    def _on_training_start(self) -> None:
        self._began = self._env.growth(), time.monotonic()
        self._before = self._began[0], self.num_timesteps, self._began[1]

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        (before, steps, seconds), now = self._before, self._env.growth()
        self._before = now, self.num_timesteps, time.monotonic()
        if now:
            self._rates.append((now["nodes_run"] - before["nodes_run"]) / (self.num_timesteps - steps))
            self.logger.record("growth/nodes", now["nodes"])
            self.logger.record("growth/new_nodes_per_step", self._rates[-1])
            in_models = (now["model_seconds"] - before["model_seconds"]) / max(self._before[2] - seconds, 1e-9)
            self.logger.record("growth/share_of_time_in_models", in_models)


class SeenRange(BaseCallback):
    """Tells every :class:`agents.scaling.Scaling` of the policy what training has met.

    Only between an update and the next rollout, so that a rollout and the update from it show the network the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.low: NDArray[np.float32] | None = None
        """Of each entry, least that was met; None while nothing was."""
        self.high: NDArray[np.float32] | None = None

    def met(self, observations: NDArray[np.float32]) -> None:
        """Widen it by observations, [..., entries]."""
        rows = observations.reshape(-1, observations.shape[-1])
        low, high = rows.min(0), rows.max(0)
        self.low = low if self.low is None else np.minimum(low, self.low)
        self.high = high if self.high is None else np.maximum(high, self.high)

    def _on_step(self) -> bool:
        if isinstance(self.model, OffPolicyAlgorithm):
            self.met(self.model._last_obs)  # type: ignore[arg-type]
        return True

    def _on_rollout_end(self) -> None:
        if isinstance(self.model, OnPolicyAlgorithm):
            self.met(self.model.rollout_buffer.observations)

    def _on_rollout_start(self) -> None:
        self._tell()

    def _on_training_end(self) -> None:
        self._tell()

    def _tell(self) -> None:
        if self.low is not None and self.high is not None:
            for each in scalings(self.model.policy):
                each.has_seen(self.low, self.high)


def scalings(policy: torch.nn.Module) -> list[Scaling]:
    """Return those of a policy of stable-baselines3, one or more."""
    return [module for module in policy.modules() if isinstance(module, Scaling)]


def seen_by(policy: torch.nn.Module) -> Seen:
    """Return what a policy was told that training has met."""
    stated = scalings(policy)[0]
    return Seen(tuple(stated.low.tolist()), tuple(stated.high.tolist()))


class Validation(BaseCallback):
    """Has a judge validate every so many steps, first before any training, and once more at the end; ends the training when it says so."""

    def __init__(self, judge: Judge, every_steps: int, judged: Callable[[], object] = lambda: None) -> None:
        """See the class.

        Args:
            judge: of the weights under training.
            every_steps: environment steps between validations.
            judged: called after each.
        """
        super().__init__()
        self.judge, self._every, self._judged = judge, every_steps, judged
        self._next = 0

    def _on_training_start(self) -> None:
        if self.num_timesteps:  # gone on with: where it was validated last
            self._next = self.num_timesteps + self._every

    def _on_step(self) -> bool:
        return self.judge.stopped is None

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self._next:
            self._next = self.num_timesteps + self._every
            self._measure()

    def _on_training_end(self) -> None:
        if self.judge.stopped is None and self.judge.best.steps < self.num_timesteps:
            self._measure()
        self.judge.warn()

    def _measure(self) -> None:
        self.judge.measure(self.num_timesteps, self.model.policy.state_dict, self.logger)
        self._judged()


class EachStep(BaseCallback):
    """Hands a function the steps so far: after each of all environments, and at the end."""

    def __init__(self, function: Callable[[int], object]) -> None:
        super().__init__()
        self._function = function

    def _on_step(self) -> bool:
        self._function(self.num_timesteps)
        return True

    def _on_training_end(self) -> None:
        self._function(self.num_timesteps)
