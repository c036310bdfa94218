"""What weights under training are worth on validation, which were best, how they stand against the best rule, and when that is enough.

What does not live here: when it is asked (agents/callbacks.py, agents/counterfactual/run.py), and what an answer is worth (agents/evaluation.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from stable_baselines3.common.logger import Logger

from agents.base import Controller
from agents.comparison import (
    ADVICE,
    ELIGIBLE,
    Estimate,
    covered_share,
    mean_of,
    reward_difference,
    warn_uncovered,
    worth,
)
from agents.evaluation import Answered, PlannedAnswer, answer_all, make_plan
from agents.learning.checkpoint import Best, Tensors
from agents.learning.recipe import Recipe
from agents.own import is_own
from agents.registry import controller, rules
from agents.rows import Rows
from agents.story import Story
from synera_env import DecisionEnv, Preference, UncoveredError

BEATS_RULES = "beats-rules"
_SHOWN = 16
"""Answers of a validation whose decisions are shown one by one."""
MINUS_RULE = "validation/minus_best_rule"
"""Tag of the difference of mean reward to the best rule; with `_low` and `_high` its 95 % interval."""


@dataclass(frozen=True)
class Rival:
    """The best rule of a validation plan."""

    name: str
    reward: float
    answered: Sequence[Answered]
    others: Mapping[str, Sequence[Answered]] = field(default_factory=dict)
    """By name, what came of all rules that were asked, this one among them."""


def best_rival(env: DecisionEnv, plan: Sequence[PlannedAnswer], against: Sequence[str] = ()) -> Rival | None:
    """Return the best of the rules that need no figures and of those named; None where none keeps enough of its answers inside.

    Args:
        env: validation environment.
        plan: the answers.
        against: controllers besides, as :func:`agents.registry.controller` takes them.

    Raises:
        SettingError, TraceError, BundleError: one cannot be used.
    """
    candidates = rules(env.schema) | {name: controller(name, env.schema) for name in against}
    rows = Rows(env, len(plan))
    answered = {name: rows.answers(each, plan, not is_own(name)) for name, each in candidates.items()}
    best = max(answered, key=lambda name: worth(answered[name]))
    value = worth(answered[best])
    return None if value == float("-inf") else Rival(best, value, answered[best], answered)


def validation_plan(env: DecisionEnv, recipe: Recipe) -> list[PlannedAnswer]:
    """Return the answers by which a training is judged: in the preferences that it is trained for, on prompts and links that it is not."""
    plan = make_plan(env, recipe.validation_answers, seed=recipe.seed)
    return [replace(each, preference=recipe.weights or Preference.sample(each.seed)) for each in plan]


@dataclass(frozen=True)
class Stop:
    """When a training is over before its steps are."""

    when: str = "steps"
    """`steps` or `beats-rules`; see :class:`agents.learning.recipe.Recipe`."""
    patience: int | None = None
    seconds: float | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> Self:
        """As a recipe says."""
        return cls(recipe.stop_when, recipe.patience, recipe.seconds)


class Judge:
    """Validates weights, keeps the best, and says when to stop.

    What weights are worth where answers leave the recorded graphs: the mean reward of :mod:`agents.comparison`; weights that
    lose more than its `ELIGIBLE` allows are kept only before there are others.
    """

    def __init__(
        self,
        env: DecisionEnv,
        plan: Sequence[PlannedAnswer],
        controller: Controller,
        rival: Rival | None = None,
        stop: Stop = Stop(),
        began: float | None = None,
        told: Callable[[int, Mapping[str, Any]], object] = lambda steps, found: None,
        bounds: Mapping[str, float] | None = None,
    ) -> None:
        """See the class.

        Args:
            env: validation environment.
            plan: the answers of each validation, always the same.
            controller: acts with the weights under training.
            rival: whom to beat.
            stop: when to stop.
            began: when the training did, on the monotonic clock; None is now.
            told: called with the steps and what was found, after each validation.
            bounds: of the plan, see :class:`agents.story.Story`.

        Raises:
            SettingError: a bound is of an unknown name.
        """
        self._story = Story(plan, rival.others if rival else {}, bounds)
        self.env, self._plan, self._controller = env, plan, controller
        self._rows = Rows(env, len(plan))
        self.log: Path | None = None
        """JSON lines file; one line a validation."""
        self.rival, self._stop, self._told = rival, stop, told
        self.best = Best()
        self.stopped: str | None = None
        """Why the training is over."""
        self._began = time.monotonic() if began is None else began
        self._answered: Sequence[Answered] = ()

    @property
    def spent(self) -> float:
        """Share of the wall time that there is, 0..1; 0 where that is not limited."""
        limit = self._stop.seconds
        return 0.0 if limit is None else min(1.0, (time.monotonic() - self._began) / limit)

    def go_on(self, best: Best) -> None:
        """Take up where an earlier training was; what it wrote after that is forgotten."""
        self.best, self._began = best, self._began - best.seconds
        if self.log is not None and self.log.is_file():
            lines = [line for line in self.log.read_text().splitlines() if line.endswith("}")]
            self.log.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["steps"] <= best.steps))

    def measure(self, steps: int, weights: Callable[[], Mapping[str, Any]], logger: Logger) -> None:
        """Validate, log, and keep the weights if they are the best so far.

        Args:
            steps: of the training so far.
            weights: returns those that the controller acts with.
            logger: of TensorBoard; dumped, as nothing may come after this.

        Raises:
            UncoveredError: no answer stays inside the recorded graphs, and there were none before.
        """
        answered, best = self._rows.answers(self._controller, self._plan), self.best
        covered = covered_share(answered)
        if not covered and not best.best_weights:
            raise UncoveredError(f"no validation answer stays inside the recorded graphs; {ADVICE}")
        found: dict[str, Any] = {name: mean_of(answered, name) for name in ("reward", "quality")} if covered else {}
        found["uncovered_rate"] = 1 - covered
        for name, value in found.items():
            logger.record(f"validation/{name}", value)
        best.steps, best.seconds = steps, time.monotonic() - self._began
        if covered and self.rival is not None:
            minus = reward_difference(answered, self.rival.answered)
            self._compare(minus, covered, logger)
            found["minus_best_rule"] = [minus.mean, minus.low, minus.high]
        self._story.validated(answered, answer_all(self.env, self._controller, self._plan[:_SHOWN]), logger)
        logger.dump(steps)
        if self.log is not None:
            with self.log.open("a") as log:
                log.write(json.dumps({"steps": steps, "seconds": round(best.seconds, 1), **found}) + "\n")
        rank = covered >= ELIGIBLE, found.get("reward", float("-inf"))
        if covered and rank > (best.best_covered, best.best_reward):
            best.best_covered, best.best_reward = rank
            best.best_steps, best.without_gain, self._answered = steps, 0, answered
            best.best_weights = _copied(weights())
        else:
            best.without_gain += 1
            if self._stop.patience is not None and best.without_gain >= self._stop.patience:
                self.stopped = f"{best.without_gain} validations in a row brought nothing better"
        if self._stop.seconds is not None and best.seconds >= self._stop.seconds:
            self.stopped = self.stopped or f"{self._stop.seconds:g} s are over"
        self._told(steps, found)

    def _compare(self, minus: Estimate, covered: float, logger: Logger) -> None:
        for end, value in (("", minus.mean), ("_low", minus.low), ("_high", minus.high)):
            logger.record(f"{MINUS_RULE}{end}", value)
        if minus.low <= 0.0 or covered < ELIGIBLE:
            return
        best = self.best
        if best.beat_at is None:
            best.beat_at = best.steps, round(best.seconds, 1)
        if self._stop.when == BEATS_RULES:
            self.stopped = f"beats the rule {self.rival.name} by {minus:+.3f}" if self.rival else None

    def end(self, recipe: Recipe, logger: Logger) -> None:
        """Tell TensorBoard what came of a recipe."""
        best = self.best
        self._story.ended(recipe.as_stated(), {"validation_reward": best.best_reward, "train_seconds": best.seconds}, logger)
        logger.dump(best.steps)

    def said(self) -> dict[str, Any]:
        """Return what came of it, for the run's provenance."""
        best = self.best
        found: dict[str, Any] = {
            "train_seconds": round(best.seconds, 1),
            "best_steps": best.best_steps,
            "validation_reward": best.best_reward,
        }
        if self.rival is not None:
            found["best_rule"] = {"name": self.rival.name, "validation_reward": self.rival.reward}
            found["beat_rules"] = best.beat_at and {"steps": best.beat_at[0], "seconds": best.beat_at[1]}
        if self.stopped:
            found["stopped"] = self.stopped
        return found

    def warn(self) -> None:
        """Warn if the best weights were judged by too few answers."""
        if self._answered:
            warn_uncovered("validation of the best weights", self._answered)


def _copied(weights: Mapping[str, Any]) -> Tensors:
    return {name: value.detach().clone() for name, value in weights.items()}
