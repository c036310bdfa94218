"""What rules take from training prompts: levels for a budget, how rejections follow confidence, what a check adds to an answer.

All is measured in replay, and what is found is plain data. What does not live here: the rules (rules/), the files that they are
kept in (rule_file.py), the search of fixed knobs (search.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agents.ablation import Watched, levels_at
from agents.base import Controller
from agents.evaluation import answer, answer_all, make_plan
from agents.rules import FIGURES, ChanceRule, FixedRule, LevelRule
from agents.rules.link_aware import LinkAware, Sight
from agents.rules.published import Rejection
from agents.utility import BothWays, Decisions, decisions
from runtime.settings import within
from synera_env import DecisionEnv, Knobs, UncoveredError
from synera_env.reward import TERMS

BUDGET_FIGURES = ("confidence", "importance")
"""Synera chooses by confidence and importance; how the two are profiled is ours."""
_ROUNDS = 3
_RIDGE = 1e-2  # of standardised figures
_NEWTON_STEPS = 50


def fit_budget(
    env: DecisionEnv, rate: float, answers: int, seed: int = 0, figures: Sequence[str] = BUDGET_FIGURES
) -> LevelRule:
    """Return the levels with which a share of the chunks is offloaded, on the mean, as profiled on training prompts.

    Levels are quantiles of what the decisions showed, the same share of each figure (:func:`agents.ablation.levels_at`): first of
    those that chance meets at this rate, then of those that the rule met itself, as what is checked changes what is met.

    Args:
        env: where to profile.
        rate: share of the chunks, above 0 and below 1.
        answers: of each round.
        seed: of the plan.
        figures: names of :data:`agents.rules.FIGURES` that must all be doubtful.

    Raises:
        SettingError: the rate is no share, or a figure is not shown.
    """
    within("budget", rate, 1e-6, 1 - 1e-6)
    plan, schema = make_plan(env, answers, seed), env.schema
    readers = {name: FIGURES[name].reader(schema) for name in figures}
    met: Controller = ChanceRule(rate, schema)
    rule = LevelRule(dict.fromkeys(figures, 1.0), schema)
    for _ in range(_ROUNDS):
        watched = Watched(met)
        for planned in plan:
            answer(env, watched, planned)
        observations = np.stack(watched.seen)
        rule = LevelRule(levels_at({name: read(observations) for name, read in readers.items()}, figures, rate), schema)
        met = rule
    return rule


def fit_rejection(env: DecisionEnv, answers: int, h: float, seed: int = 0) -> Rejection:
    """Fit how likely the LLM rejects a token, by its confidence: logistic in log-doubt, on tokens that `always` had judged.

    Tokens after the first rejection of a chunk were not judged and say nothing.

    Raises:
        UncoveredError: no token was judged in the graphs.
    """
    asked = FixedRule(env.schema.presets["always"], env.schema)
    confidence: list[float] = []
    rejected: list[bool] = []
    for each in answer_all(env, asked, make_plan(env, answers, seed)):
        for record in (record for record in each.records if record.judged):
            judged = record.draft.tokens[: record.accepted + 1]
            confidence += [token.confidence for token in judged]
            rejected += [place == record.accepted for place in range(len(judged))]
    if not rejected:
        raise UncoveredError("no check was answered, so nothing says how rejections follow confidence; record larger graphs")
    doubt = np.log(np.maximum(1.0 - np.array(confidence), 1e-3))
    intercept, slope = _logistic(doubt, np.array(rejected, float))
    return Rejection(h, intercept, slope)


def fit_link_aware(
    env: DecisionEnv, draft: Knobs, answers: int, seed: int = 0, finished: Callable[[], object] = lambda: None
) -> LinkAware:
    """Fit what offloading adds to each term of an answer, on decisions of training prompts that are taken both ways.

    Args:
        env: without outages, as a check that is lost says nothing of its draft.
        draft: how chunks are drafted, and by which threshold decisions are met.
        answers: of the rule that meets them, at most one to a prompt.
        seed: draws the prompts, where they are more.
        finished: called after each answer.

    Raises:
        UncoveredError: no decision has both its sides inside the recorded graphs.
    """
    offload = replace(draft, confidence_threshold=1.0, importance_threshold=0.0, offload_budget=1.0)
    ways = BothWays(lambda seen: draft, replace(offload, offload_budget=0.0), offload)
    return _link_aware(decisions(env, answers, seed, finished, ways), Sight(env.schema), offload)


def _link_aware(known: Decisions, sight: Sight, offload: Knobs) -> LinkAware:
    """Ridge regression of each term on the figures, standardised; that of the quality on the draft's alone."""
    figures = sight.figures(known.seen)
    center, scale = figures.mean(0), figures.std(0)
    scale[scale < 1e-9] = 1.0
    shown = (figures - center) / scale
    weights: dict[str, tuple[float, ...]] = {}
    for place, term in enumerate(TERMS):
        used = sight.draft_figures if term == "quality" else shown.shape[1]
        intercept = float(known.terms[:, place].mean())
        found = _ridge(shown[:, :used], known.terms[:, place] - intercept)
        weights[term] = (intercept, *found.tolist(), *[0.0] * (shown.shape[1] - used))
    quality, latency, cost, energy, traffic = (weights[term] for term in TERMS)
    spread = tuple(center.tolist()), tuple(scale.tolist())
    return LinkAware(offload, sight.names, *spread, quality, latency, cost, energy, traffic)


def _ridge(shown: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    gram = shown.T @ shown / len(shown) + _RIDGE * np.eye(shown.shape[1])
    return np.asarray(np.linalg.solve(gram, shown.T @ wanted / len(shown)), np.float64)


def _logistic(value: NDArray[np.float64], happened: NDArray[np.float64]) -> tuple[float, float]:
    """Return intercept and slope of the log-odds, by Newton's method; a tiny ridge keeps what separates finite."""
    entries, weights = np.stack([np.ones_like(value), value], -1), np.zeros(2)
    for _ in range(_NEWTON_STEPS):
        share = 1.0 / (1.0 + np.exp(-entries @ weights))
        gradient = entries.T @ (share - happened) + 1e-3 * weights
        step = np.linalg.solve((entries.T * (share * (1 - share))) @ entries + 1e-3 * np.eye(2), gradient)
        weights = weights - np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-9:
            break
    return float(weights[0]), float(weights[1])
