"""Driving a controller through answers, in any world, on a plan that makes worlds and controllers comparable."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from agents.base import Controller
from agents.policy import ControllerPolicy
from runtime.settings import within
from synera_env import DecisionEnv, EpisodeMetrics, Preference, UncoveredError, drive, summarise
from synera_env.metrics import bootstrap_interval, episode_metrics, prompt_means

MOST_ANSWERS = 1_000_000
"""Of a plan."""
ENOUGH = 0.9
"""Share of the answers that should stay inside the recorded graphs, for what is said of them to be said of all."""


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
    reward: float
    """As the environment pays it: an answer that left the recorded graph has its costs, and no quality."""


def make_plan(env: DecisionEnv, answers: int, seed: int = 0, preference: Preference | None = None) -> list[PlannedAnswer]:
    """Return a plan that visits the prompts evenly (each once before any twice), with links and offsets drawn.

    Args:
        env: whose prompts and links.
        answers: how many.
        seed: of all draws.
        preference: of every answer; None is the default.

    Raises:
        SettingError: `answers` or `seed` is out of range.
    """
    within("answers", answers, 1, MOST_ANSWERS)
    within("seed", seed, 0, 2**32 - 1)
    rng = np.random.default_rng([seed, 11])
    order = np.concatenate([rng.permutation(env.prompt_count) for _ in range(-(-answers // env.prompt_count))])[:answers]
    plan = []
    for i, prompt in enumerate(order):
        link = int(rng.integers(len(env.links)))
        offset = float(rng.uniform(0, env.links[link].seconds))
        plan.append(PlannedAnswer(int(prompt), link, offset, seed=1000 * seed + i, preference=preference or Preference()))
    return plan


def answer(env: DecisionEnv, controller: Controller, planned: PlannedAnswer) -> Answered:
    """Let a controller decide one answer.

    Raises:
        BundleError: the controller is a bundle that was not trained for the planned preference.
    """
    options = {name: getattr(planned, name) for name in ("prompt", "link", "link_offset_seconds", "preference")}
    episode = env.episode(seed=planned.seed, options=options)
    session, policy = episode.session, ControllerPolicy(controller, env.schema, planned.preference)
    try:
        for _ in drive(session, episode.prompt_tokens, policy, planned.seed):
            pass
        metrics = episode_metrics(session.records, episode.score(), planned.preference)
    except UncoveredError:
        lost = Answered(planned.prompt, None, tuple(session.records), session.answer, 0.0)
        return replace(lost, reward=_paid(env, policy, planned.seed, options)) if policy.has_decided else lost
    return Answered(planned.prompt, metrics, tuple(session.records), session.answer, metrics.reward)


def _paid(env: DecisionEnv, policy: ControllerPolicy, seed: int, options: dict[str, Any]) -> float:
    """What the environment pays for an answer, which is begun again: it prices what was left undone."""
    policy.begin(seed)
    observation, _ = env.reset(seed=seed, options=options)
    paid, ended = 0.0, False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(policy.act(observation))
        paid, ended = paid + reward, terminated or truncated
    return paid


def summarise_answers(answers: Sequence[Answered]) -> dict[str, float]:
    """Return `synera_env.summarise` of the answers that were covered, intervals by prompt, and the uncovered rate.

    Not for a comparison: each controller loses other answers. See :func:`summarise_shared`.

    Raises:
        UncoveredError: none was covered.
    """
    return _summary(answers, [a.metrics is not None for a in answers])


def summarise_shared(answered: Mapping[str, Sequence[Answered]]) -> dict[str, dict[str, float]]:
    """Summarise controllers on the answers that all of them covered, so that they are compared on the same ones.

    Warns where these are fewer than `ENOUGH` of the plan.

    Args:
        answered: by controller, its outcomes of one plan.

    Returns:
        By controller: `synera_env.summarise` of the shared answers, intervals by prompt; `uncovered_rate`, its own;
        `shared_rate`, the shared answers' part of the plan, the same for all.

    Raises:
        ValueError: the controllers were not run on the same plan.
        UncoveredError: they share no covered answer.
    """
    if len({tuple(a.prompt for a in outcomes) for outcomes in answered.values()}) > 1:
        raise ValueError("the answers of the controllers are not of one plan")
    shared = [all(a.metrics is not None for a in same) for same in zip(*answered.values(), strict=True)]
    rate = sum(shared) / max(1, len(shared))
    summaries = {name: _summary(outcomes, shared) | {"shared_rate": rate} for name, outcomes in answered.items()}
    warn_uncovered(f"the comparison of {', '.join(answered)}", rate)
    return summaries


def warn_uncovered(what: str, share: float) -> None:
    """Warn if only this share of the answers behind something stayed inside the recorded graphs, and it is too small."""
    if share < ENOUGH:
        advice = "record them with a larger node budget"
        warnings.warn(
            f"{what} rests on {share:.0%} of the answers, the others left the recorded graphs; {advice}", stacklevel=3
        )


def _summary(answers: Sequence[Answered], counted: Sequence[bool]) -> dict[str, float]:
    """Summarise the answers that count, all of them covered; the uncovered rate is of all."""
    kept = [(a.metrics, a.prompt) for a, counts in zip(answers, counted, strict=True) if counts and a.metrics is not None]
    if not kept:
        raise UncoveredError("no answer stays inside the recorded graphs; record them with a larger node budget")
    summary = summarise([m for m, _ in kept], [p for _, p in kept])
    return summary | {"uncovered_rate": sum(a.metrics is None for a in answers) / len(answers)}


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
