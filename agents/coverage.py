"""How much of what controllers do stays inside recorded graphs: by decision and by answer, in the replay itself.

What does not live here: what recorders state of a file, which is of walks by token (traces/synera/coverage.py), and what is
said of answers that left (comparison.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agents.base import Controller
from agents.comparison import Estimate
from agents.evaluation import PlannedAnswer
from agents.policy import ControllerPolicy
from agents.registry import rules
from agents.rules import FixedRule, RandomRule, level_rule
from runtime.errors import SettingError
from synera_env import DecisionEnv, Schema
from synera_env.metrics import bootstrap_interval

RANDOM_SEEDS = (1, 2, 3)
"""Of the random controllers. Recorders draw their walks by the token and from a generator of their own, so these are others."""
LEVELS = {
    "chance": (0.25, 0.5, 0.75),
    "confidence": (0.5, 0.9),
    "margin": (0.5, 0.9),
    "entropy": (0.5, 1.5),
    "importance": (0.5, 0.9),
}
"""Levels that are tried of each figure that rules look at (:data:`agents.rules.FIGURES`), and of chance."""
SWEPT = {
    "never": ("exit_index", "exit_margin", "draft_length"),
    "always": ("exit_index", "exit_margin", "draft_length", "draft_ahead"),
    "threshold": ("confidence_threshold", "importance_threshold", "offload_budget"),
}
"""Knobs that are set to each value of their row's grid, one at a time, by the preset that they are changed of."""


@dataclass(frozen=True)
class Covered:
    """What one controller kept inside."""

    answers: int
    inside: int
    """Answers that came to their end there."""
    steps: int
    """Decisions, the one included with which an answer left; an answer that could not be begun counts as one that left."""
    uncovered: int
    """Decisions with which an answer left."""
    answers_inside: Estimate
    steps_inside: Estimate


def swept(schema: Schema) -> dict[str, Controller]:
    """Return the controllers that coverage is measured with: every rule, random ones, levels, and presets with a knob changed.

    What the schema has not (a figure, a preset, a knob) is left out.
    """
    found = {name: rule for name, rule in rules(schema).items() if not isinstance(rule, RandomRule)}
    found |= {f"random, seed {seed}": RandomRule(schema, seed) for seed in RANDOM_SEEDS}
    for figure, levels in LEVELS.items():
        for level in levels:
            try:
                found[f"{figure}={level:g}"] = level_rule(f"{figure}={level}", schema)
            except (SettingError, KeyError):  # a system without that figure, or without presets that keep and offload
                continue
    rows = {row.name: row for row in schema.rows}
    for preset, names in SWEPT.items():
        if preset not in schema.presets:
            continue
        knobs = schema.presets[preset]
        for row in (rows[name] for name in names if name in rows):
            for value in row.grid:
                changed = replace(knobs, **{row.name: value})
                if not np.array_equal(schema.action(changed), schema.action(knobs)):
                    found[f"{preset}, {row.name}={value:g}"] = FixedRule(changed, schema)
    return found


def measure_coverage(
    env: DecisionEnv,
    controllers: Mapping[str, Controller],
    plan: Sequence[PlannedAnswer],
    finished: Callable[[], object] = lambda: None,
) -> dict[str, Covered]:
    """Let each controller answer a plan, and count.

    Args:
        env: over recorded graphs.
        controllers: by name.
        plan: the answers.
        finished: called after each controller.

    Raises:
        BundleError: a controller is a bundle that was not trained for the planned preference.
    """
    found = {}
    for name, controller in controllers.items():
        steps, left = zip(*(_steps(env, controller, planned) for planned in plan), strict=True)
        found[name] = _covered(np.array([planned.prompt for planned in plan]), np.array(steps), np.array(left))
        finished()
    return found


def _steps(env: DecisionEnv, controller: Controller, planned: PlannedAnswer) -> tuple[int, bool]:
    """Decisions of one answer, and whether the last of them left what was recorded."""
    options = {name: getattr(planned, name) for name in ("prompt", "link", "link_offset_seconds", "preference")}
    if planned.prompt not in env.startable:
        return 1, True
    policy = ControllerPolicy(controller, env.schema, planned.preference)
    policy.begin(planned.seed)
    observation, _ = env.reset(seed=planned.seed, options=options)
    steps, terminated, truncated = 0, False, False
    while not (terminated or truncated):
        observation, _, terminated, truncated, _ = env.step(policy.act(observation, env.point))
        steps += 1
    return steps, truncated


def _covered(prompts: NDArray[np.int64], steps: NDArray[np.int64], left: NDArray[np.bool_]) -> Covered:
    ones = np.ones(len(steps), np.int64)
    return Covered(
        answers=len(steps),
        inside=int((~left).sum()),
        steps=int(steps.sum()),
        uncovered=int(left.sum()),
        answers_inside=_share(prompts, ones, left),
        steps_inside=_share(prompts, steps, left),
    )


def _share(prompts: NDArray[np.int64], counts: NDArray[np.int64], left: NDArray[np.bool_]) -> Estimate:
    """Of so many each, those that did not leave."""
    _, place = np.unique(prompts, return_inverse=True)
    total = np.bincount(place, counts).astype(float)
    kept = total - np.bincount(place, left)
    return Estimate(float(kept.sum() / total.sum()), *bootstrap_interval(kept / total, weights=total))
