"""Driving a controller through answers, in any world, on a plan that makes worlds and controllers comparable.

What does not live here: what is said of the answers, of which some may have left the recorded graphs (comparison.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from agents.base import Controller
from agents.policy import ControllerPolicy
from runtime.settings import within
from synera_env import DecisionEnv, EpisodeMetrics, Preference, UncoveredError, drive, side_by_side

Found = TypeVar("Found")
MOST_ANSWERS = 1_000_000
"""Of a plan."""
AT_ONCE = 32
"""Answers side by side, where they go so."""


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
    kind: str
    """Of the prompt's task."""
    metrics: EpisodeMetrics | None
    """None when the replay left the recorded graph."""
    records: tuple[Any, ...]
    """Of the system's own kind of :class:`synera_env.StepRecord`."""
    tokens: tuple[int, ...]


def make_plan(
    env: DecisionEnv,
    answers: int,
    seed: int = 0,
    preference: Preference | None = None,
    links: Sequence[int] | None = None,
) -> list[PlannedAnswer]:
    """Return a plan that visits the prompts evenly (each once before any twice), with links and offsets drawn.

    Args:
        env: whose prompts and links.
        answers: how many.
        seed: of all draws.
        preference: of every answer; None is the default.
        links: places of the links to draw from; None is all.

    Raises:
        SettingError: `answers` or `seed` is out of range.
    """
    within("answers", answers, 1, MOST_ANSWERS)
    within("seed", seed, 0, 2**32 - 1)
    rng = np.random.default_rng([seed, 11])
    order = np.concatenate([rng.permutation(env.prompt_count) for _ in range(-(-answers // env.prompt_count))])[:answers]
    plan, links = [], range(len(env.links)) if links is None else links
    for i, prompt in enumerate(order):
        link = links[int(rng.integers(len(links)))]
        offset = float(rng.uniform(0, env.links[link].seconds))
        plan.append(PlannedAnswer(int(prompt), link, offset, seed=1000 * seed + i, preference=preference or Preference()))
    return plan


def plans_by_family(
    env: DecisionEnv, answers: int, seed: int = 0, preference: Preference | None = None
) -> dict[str, list[PlannedAnswer]]:
    """Return a plan for the links of each family: the same prompts in the same order, so that families can be compared.

    Raises:
        SettingError: as of :func:`make_plan`.
    """
    families: dict[str, list[int]] = {}
    for place, link in enumerate(env.links):
        families.setdefault(link.family, []).append(place)
    return {family: make_plan(env, answers, seed, preference, families[family]) for family in sorted(families)}


def answer(env: DecisionEnv, controller: Controller, planned: PlannedAnswer) -> Answered:
    """Let a controller decide one answer.

    Raises:
        BundleError: the controller is a bundle that was not trained for the planned preference.
    """
    options = {name: getattr(planned, name) for name in ("prompt", "link", "link_offset_seconds", "preference")}
    episode = env.episode(seed=planned.seed, options=options)
    session, policy = episode.session, ControllerPolicy(controller, env.schema, planned.preference)
    metrics = None
    try:
        for _ in drive(session, episode.prompt_tokens, policy, planned.seed):
            pass
        metrics = env.metrics(session.records, episode.score(), planned.preference)
    except UncoveredError:
        pass  # nothing is invented
    return Answered(planned.prompt, episode.kind, metrics, tuple(session.records), session.answer)


def answer_all(env: DecisionEnv, controller: Controller, plan: Sequence[PlannedAnswer]) -> list[Answered]:
    """Let a controller decide every answer of a plan; see :func:`over_plan`.

    Raises:
        BundleError: the controller is a bundle that was not trained for a planned preference.
    """
    return over_plan(env, plan, lambda env, planned: answer(env, controller, planned))


def over_plan(
    env: DecisionEnv, plan: Sequence[PlannedAnswer], found: Callable[[DecisionEnv, PlannedAnswer], Found]
) -> list[Found]:
    """Return what is found of every answer of a plan; side by side where they wait for something that serves several at once."""
    envs = env.siblings(min(AT_ONCE, len(plan)))

    def share(place: int) -> list[Found]:
        return [found(envs[place], planned) for planned in plan[place :: len(envs)]]

    shares = side_by_side([partial(share, place) for place in range(len(envs))])
    return [shares[i % len(envs)][i // len(envs)] for i in range(len(plan))]


def evaluate(env: DecisionEnv, controller: Controller, plan: Sequence[PlannedAnswer]) -> list[EpisodeMetrics]:
    """Return the metrics of every answer of a plan; uncovered ones are left out."""
    return [each.metrics for each in answer_all(env, controller, plan) if each.metrics is not None]
