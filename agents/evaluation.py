"""Driving a controller through answers, in any world, on a plan that makes worlds and controllers comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from agents.base import Controller
from synera_env import StepRecord
from synera_env.env import SyneraEnv
from synera_env.metrics import EpisodeMetrics
from synera_env.reward import Preference


@dataclass(frozen=True)
class PlannedAnswer:
    """One answer of a plan: everything that is drawn at an episode's start."""

    prompt: int
    link: int
    link_offset_seconds: float
    seed: int
    preference: Preference = field(default_factory=Preference)


@dataclass(frozen=True)
class Answered:
    """What came of a planned answer."""

    metrics: EpisodeMetrics | None
    """None when the replay left the recorded graph."""
    records: tuple[StepRecord, ...]
    tokens: tuple[int, ...]


def make_plan(env: SyneraEnv, answers: int, seed: int = 0, preference: Preference | None = None) -> list[PlannedAnswer]:
    """Return a plan that visits the prompts evenly (each once before any twice), with links and offsets drawn."""
    rng = np.random.default_rng([seed, 11])
    order = np.concatenate([rng.permutation(env.prompt_count) for _ in range(-(-answers // env.prompt_count))])[:answers]
    plan = []
    for i, prompt in enumerate(order):
        link = int(rng.integers(len(env.links)))
        offset = float(rng.uniform(0, env.links[link].seconds))
        plan.append(PlannedAnswer(int(prompt), link, offset, seed=1000 * seed + i, preference=preference or Preference()))
    return plan


def answer(env: SyneraEnv, controller: Controller, planned: PlannedAnswer) -> Answered:
    """Let a controller decide one answer."""
    options = {k: v for k, v in asdict(planned).items() if k in ("prompt", "link", "link_offset_seconds")}
    observation, _ = env.reset(seed=planned.seed, options=options | {"preference": planned.preference})
    state, start = planned.seed, np.ones(1, bool)
    while True:
        action, state = controller.predict(observation, state, start, deterministic=True)
        observation, _, terminated, truncated, info = env.step(action)
        start = np.zeros(1, bool)
        if terminated or truncated:
            metrics = EpisodeMetrics(**info["episode_metrics"]) if terminated else None
            return Answered(metrics, tuple(env.session.records), env.session.answer)


def evaluate(env: SyneraEnv, controller: Controller, plan: Sequence[PlannedAnswer]) -> list[EpisodeMetrics]:
    """Return the metrics of every answer of a plan; uncovered ones are left out."""
    return [m for planned in plan if (m := answer(env, controller, planned).metrics) is not None]
