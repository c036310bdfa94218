"""What watches a training: means over the episodes of each rollout in TensorBoard, validation, the range of what was met.

What does not live here: the training (learned.py) and what an answer is worth (evaluation.py).
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

from agents.base import Controller
from agents.bundle import Seen
from agents.comparison import ADVICE, ELIGIBLE, covered_share, mean_of, warn_uncovered
from agents.evaluation import Answered, PlannedAnswer, answer_all
from agents.scalars import CONFIGURATION, Means, configuration_table
from agents.scaling import Scaling
from agents.vector import CompiledVecEnv
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
        self._paid: defaultdict[int, list[Mapping[str, float]]] = defaultdict(list)
        """By environment, what the decisions of its answer under way earned."""
        self._earned: NDArray[np.float64] | None = None
        """The same of compiled ones, [terms, rows]."""

    def _on_training_start(self) -> None:
        self.logger.record(CONFIGURATION, configuration_table(self._configuration))

    def _on_step(self) -> bool:
        if isinstance(self.training_env, CompiledVecEnv):
            self._count_rows(self.training_env.vectors)
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

    What weights are worth where answers leave the recorded graphs: the mean reward of :mod:`agents.comparison`; weights that
    lose more than its `ELIGIBLE` allows are kept only before there are others.
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
        self.best_steps = 0
        self._best: Sequence[Answered] = ()

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self._next:
            self._next = self.num_timesteps + self._every
            self._measure()

    def _on_training_end(self) -> None:
        self._measure()
        warn_uncovered("validation of the best weights", self._best)

    def _measure(self) -> None:
        answered = answer_all(self._env, self._controller, self._plan)
        covered = covered_share(answered)
        if not covered and not self._best:
            raise UncoveredError(f"no validation answer stays inside the recorded graphs; {ADVICE}")
        found = {name: mean_of(answered, name) for name in ("reward", "quality")} if covered else {}
        found["uncovered_rate"] = 1 - covered
        for name, value in found.items():
            self.logger.record(f"validation/{name}", value)
        self.logger.dump(self.num_timesteps)  # now, as nothing may come after it
        with self._log.open("a") as log:
            log.write(json.dumps({"steps": self.num_timesteps, **found}) + "\n")
        if covered and self._rank(answered) > self._rank(self._best):
            self.best_reward, self._best, self.best_steps = found["reward"], answered, self.num_timesteps
            self.best_weights = {k: v.detach().clone() for k, v in self.model.policy.state_dict().items()}

    @staticmethod
    def _rank(answered: Sequence[Answered]) -> tuple[bool, float]:
        """By what weights are chosen."""
        return covered_share(answered) >= ELIGIBLE, mean_of(answered, "reward") if answered else float("-inf")
