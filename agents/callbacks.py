"""What training shows in TensorBoard: means over the episodes of each rollout, not last values."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from agents.base import Controller
from agents.evaluation import PlannedAnswer, evaluate
from synera_env import DecisionEnv, UncoveredError

_METRICS = ("reward", "quality", "seconds", "ttft_seconds", "offload_rate", "cloud_seconds", "joules", "tokens")


class EpisodeMeans(BaseCallback):
    """Logs, by rollout: `episode/*` metrics, `reward_terms/*` by answer, `knobs/*` by chunk, the uncovered rate."""

    def __init__(self) -> None:
        super().__init__()
        self._metrics: dict[str, list[float]] = defaultdict(list)
        self._terms: dict[str, float] = defaultdict(float)
        self._knobs: dict[str, list[float]] = defaultdict(list)
        self._ended = self._uncovered = 0

    def _on_step(self) -> bool:
        for done, info in zip(self.locals["dones"], self.locals["infos"], strict=True):
            for name, value in info.get("knobs", {}).items():
                self._knobs[name].append(float(value))
            for name, value in info.get("reward_terms", {}).items():
                self._terms[name] += value
            self._uncovered += bool(info.get("uncovered"))
            self._ended += bool(done)
            for name in _METRICS:
                if "episode_metrics" in info:
                    self._metrics[name].append(info["episode_metrics"][name])
        return True

    def _on_rollout_end(self) -> None:
        for name, values in self._metrics.items():
            self.logger.record(f"episode/{name}", float(np.mean(values)))
        for name, values in self._knobs.items():
            self.logger.record(f"knobs/{name}", float(np.mean(values)))
        if self._ended:
            for name, total in self._terms.items():
                self.logger.record(f"reward_terms/{name}", total / self._ended)
            self.logger.record("episode/uncovered_rate", self._uncovered / self._ended)
        self._metrics.clear()
        self._terms.clear()
        self._knobs.clear()
        self._ended = self._uncovered = 0


class KeepBest(BaseCallback):
    """Evaluates on validation prompts every so many steps and keeps the best weights, with their normaliser, in memory."""

    def __init__(
        self, env: DecisionEnv, plan: Sequence[PlannedAnswer], controller: Controller, every_steps: int, log: Path
    ) -> None:
        """See the class.

        Args:
            env: validation environment.
            plan: the answers of each evaluation, always the same.
            controller: acts with the weights under training.
            every_steps: environment steps between evaluations.
            log: JSON lines file; one line an evaluation.
        """
        super().__init__()
        self._env, self._plan, self._controller, self._every, self._log = env, plan, controller, every_steps, log
        self._next = 0
        self.best_reward = -np.inf
        self.best_weights: dict[str, object] = {}
        self.best_statistics: Any = None
        """The observation statistics that the best weights were measured with."""
        self.best_steps = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.num_timesteps >= self._next:
            self._next = self.num_timesteps + self._every
            self.measure()

    def measure(self) -> None:
        """Evaluate now; called once more after training."""
        episodes = evaluate(self._env, self._controller, self._plan)
        if not episodes:
            raise UncoveredError("no validation answer stays inside the recorded graphs; record them with a larger node budget")
        reward = float(np.mean([e.reward for e in episodes]))
        quality = float(np.mean([e.quality for e in episodes]))
        self.logger.record("validation/reward", reward)
        self.logger.record("validation/quality", quality)
        with self._log.open("a") as log:
            log.write(json.dumps({"steps": self.num_timesteps, "reward": reward, "quality": quality}) + "\n")
        if reward > self.best_reward:
            self.best_reward, self.best_steps = reward, self.num_timesteps
            self.best_weights = {k: v.detach().clone() for k, v in self.model.policy.state_dict().items()}
            vec: Any = self.training_env
            self.best_statistics = copy.deepcopy(vec.obs_rms)
