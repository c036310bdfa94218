"""What watches a training: means over the episodes of each rollout in TensorBoard, validation, the range of what was met.

What does not live here: the training (learned.py) and what an answer is worth (evaluation.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from agents.base import Controller
from agents.bundle import Seen
from agents.evaluation import PlannedAnswer, answer, warn_uncovered
from agents.scalars import CONFIGURATION, Means, configuration_table
from agents.scaling import Scaling
from synera_env import DecisionEnv, UncoveredError


class EpisodeMeans(BaseCallback):
    """Logs, by rollout, the means of :class:`agents.scalars.Means`; and, once, how the run is configured."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        """See the class.

        Args:
            configuration: of the run, plain data.
        """
        super().__init__()
        self._configuration, self._means = configuration, Means()

    def _on_training_start(self) -> None:
        self.logger.record(CONFIGURATION, configuration_table(self._configuration))

    def _on_step(self) -> bool:
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            self._means.decided(info["knobs"])
            self._means.paid(info["reward_terms"])
            if done:
                self._means.ended(info.get("episode_metrics"))
        return True

    def _on_rollout_end(self) -> None:
        for tag, value in self._means.take().items():
            self.logger.record(tag, value)


class SeenRange(BaseCallback):
    """Tells the policy's :class:`agents.scaling.Scaling` what training has met.

    Only between an update and the next rollout, so that a rollout and the update from it show the network the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self._low: NDArray[np.float32] | None = None
        self._high: NDArray[np.float32] | None = None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        observations: NDArray[np.float32] = self.model.rollout_buffer.observations  # type: ignore[attr-defined]
        met = observations.reshape(-1, observations.shape[-1])
        low, high = met.min(0), met.max(0)
        self._low = low if self._low is None else np.minimum(low, self._low)
        self._high = high if self._high is None else np.maximum(high, self._high)

    def _on_rollout_start(self) -> None:
        self._tell()

    def _on_training_end(self) -> None:
        self._tell()

    def _tell(self) -> None:
        if self._low is not None and self._high is not None:
            scaling(self.model.policy).has_seen(self._low, self._high)


def scaling(policy: Any) -> Scaling:
    """Return the scaling of a policy of stable-baselines3 that was made with one."""
    extractor: Scaling = policy.features_extractor
    return extractor


def seen_by(policy: Any) -> Seen:
    """Return what a policy was told that training has met."""
    stated = scaling(policy)
    return Seen(tuple(stated.low.tolist()), tuple(stated.high.tolist()))


class KeepBest(BaseCallback):
    """Evaluates on validation prompts every so many steps and keeps the best weights in memory.

    Weights are compared on all answers of the plan: one that leaves the recorded graphs counts as the environment pays
    it, its costs and no quality. Left out, it would favour the weights that lose the hardest answers.
    """

    def __init__(
        self, env: DecisionEnv, plan: Sequence[PlannedAnswer], controller: Controller, every_steps: int, log: Path
    ) -> None:
        """See the class.

        Args:
            env: validation environment.
            plan: the answers of each evaluation, always the same.
            controller: acts with the weights under training.
            every_steps: environment steps between evaluations; the first is before any training.
            log: JSON lines file; one line an evaluation.
        """
        super().__init__()
        self._env, self._plan, self._controller, self._every, self._log = env, plan, controller, every_steps, log
        self._next = 0
        self.best_reward = -np.inf
        self.best_weights: dict[str, object] = {}
        self.best_covered = 0.0
        """Share of the answers of that evaluation that stayed inside the graphs."""
        self.best_steps = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self._next:
            self._next = self.num_timesteps + self._every
            self._measure()

    def _on_training_end(self) -> None:
        self._measure()
        warn_uncovered("validation of the best weights", self.best_covered)

    def _measure(self) -> None:
        answered = [answer(self._env, self._controller, planned) for planned in self._plan]
        covered = float(np.mean([a.metrics is not None for a in answered]))
        if not covered:
            raise UncoveredError("no validation answer stays inside the recorded graphs; record them with a larger node budget")
        found = {
            "reward": float(np.mean([a.reward for a in answered])),
            "quality": float(np.mean([a.metrics.quality if a.metrics else 0.0 for a in answered])),
            "uncovered_rate": 1 - covered,
        }
        for name, value in found.items():
            self.logger.record(f"validation/{name}", value)
        self.logger.dump(self.num_timesteps)  # now, as nothing may come after it
        with self._log.open("a") as log:
            log.write(json.dumps({"steps": self.num_timesteps, **found}) + "\n")
        if found["reward"] > self.best_reward:
            self.best_reward, self.best_covered, self.best_steps = found["reward"], covered, self.num_timesteps
            self.best_weights = {k: v.detach().clone() for k, v in self.model.policy.state_dict().items()}
