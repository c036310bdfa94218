"""Driving a controller through answers, in any world, on a plan that makes worlds and controllers comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agents.base import Controller
from agents.policy import ControllerPolicy
from synera_env import DecisionEnv, EpisodeMetrics, Preference, UncoveredError, drive, summarise
from synera_env.metrics import bootstrap_interval, episode_metrics, prompt_means


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

    prompt: int
    metrics: EpisodeMetrics | None
    """None when the replay left the recorded graph."""
    records: tuple[Any, ...]
    """Of the system's own kind of :class:`synera_env.StepRecord`."""
    tokens: tuple[int, ...]


def make_plan(env: DecisionEnv, answers: int, seed: int = 0, preference: Preference | None = None) -> list[PlannedAnswer]:
    """Return a plan that visits the prompts evenly (each once before any twice), with links and offsets drawn."""
    rng = np.random.default_rng([seed, 11])
    order = np.concatenate([rng.permutation(env.prompt_count) for _ in range(-(-answers // env.prompt_count))])[:answers]
    plan = []
    for i, prompt in enumerate(order):
        link = int(rng.integers(len(env.links)))
        offset = float(rng.uniform(0, env.links[link].seconds))
        plan.append(PlannedAnswer(int(prompt), link, offset, seed=1000 * seed + i, preference=preference or Preference()))
    return plan


def answer(env: DecisionEnv, controller: Controller, planned: PlannedAnswer) -> Answered:
    """Let a controller decide one answer."""
    options = {name: getattr(planned, name) for name in ("prompt", "link", "link_offset_seconds", "preference")}
    episode = env.episode(seed=planned.seed, options=options)
    session, policy = episode.session, ControllerPolicy(controller, env.schema, planned.preference)
    try:
        for _ in drive(session, episode.prompt_tokens, policy, planned.seed):
            pass
        metrics = episode_metrics(session.records, episode.score(), planned.preference)
    except UncoveredError:
        metrics = None
    return Answered(planned.prompt, metrics, tuple(session.records), session.answer)


def summarise_answers(answers: Sequence[Answered]) -> dict[str, float]:
    """Return `synera_env.summarise` of the answers that were covered, intervals by prompt, and the uncovered rate."""
    covered = [(a.metrics, a.prompt) for a in answers if a.metrics is not None]
    summary = summarise([m for m, _ in covered], [p for _, p in covered])
    return summary | {"uncovered_rate": 1 - len(covered) / len(answers)}


@dataclass(frozen=True)
class Difference:
    """Mean reward of one controller minus another's on the same answers, with its 95 % interval by prompt."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def reward_difference(ours: Sequence[Answered], theirs: Sequence[Answered]) -> Difference:
    """Compare two controllers on one plan, answer by answer; answers that either left uncovered are left out.

    Raises:
        ValueError: they were not run on the same plan.
        UncoveredError: they share no covered answer.
    """
    pairs = [(a.prompt, a.metrics, b.metrics) for a, b in zip(ours, theirs, strict=True) if a.metrics and b.metrics]
    if [a.prompt for a in ours] != [b.prompt for b in theirs]:
        raise ValueError("the answers of the two controllers are not of one plan")
    if not pairs:
        raise UncoveredError("the two controllers share no answer that stays inside the recorded graphs; record more of them")
    differences = prompt_means([a.reward - b.reward for _, a, b in pairs], [p for p, _, _ in pairs])
    return Difference(float(differences.mean()), *bootstrap_interval(differences))


def evaluate(env: DecisionEnv, controller: Controller, plan: Sequence[PlannedAnswer]) -> list[EpisodeMetrics]:
    """Return the metrics of every answer of a plan; uncovered ones are left out."""
    return [m for planned in plan if (m := answer(env, controller, planned).metrics) is not None]
