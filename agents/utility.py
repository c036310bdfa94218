"""What one decision is worth, and how much of it simple rules take, in replay.

At each decision of a reference rule the draft in hand is both offloaded and kept, and the reference rule goes on from there;
the advantage is the difference of the two rewards. A clairvoyant offloads where it is positive. What does not live here: what
whole answers are worth (evaluation.py), and quality by offload rate (ablation.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from agents.comparison import Estimate
from agents.evaluation import PlannedAnswer, make_plan, over_plan
from agents.rules import FIGURES, Figure
from agents.signals import ranking
from synera_env import DecisionEnv, Preference, Schema, UncoveredError, drive
from synera_env.reward import objectives

REFERENCE = "threshold"
"""Name of the preset that decides before and after."""
LINEAR = "all features, linear"
"""Name of the rule that weighs every entry of the observation, beside those of single figures."""
_RIDGE = 1e-2  # of the linear rule's weights, against the mean square of standardised entries
_RESAMPLES = 2000


@dataclass(frozen=True)
class Taken:
    """What one rule takes: it offloads where its doubt reaches the level that was best on training prompts."""

    utility: Estimate
    """Mean advantage a decision, counting 0 where the draft is kept."""
    share: Estimate | None
    """Of the clairvoyant's; None where that takes nothing."""
    ranking: float | None
    """How likely its doubt is larger where offloading pays than where it does not; 0.5 is chance, None without pairs."""


@dataclass(frozen=True)
class Utility:
    """What single decisions are worth on test prompts."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    prompts: int
    decisions: int
    left_out: int
    """Further decisions of which either side leaves the recorded graphs."""
    pays: float
    """Share of the decisions where offloading is worth more than keeping."""
    clairvoyant: Estimate
    """Mean a decision of the advantage where it is positive."""
    rules: dict[str, Taken]
    """By figure of the draft, and for :data:`LINEAR`."""


@dataclass(frozen=True)
class Decisions:
    """Both sides of every decision of the reference rule that could be told."""

    prompts: NDArray[np.intp]
    """[decisions]"""
    seen: NDArray[np.float32]
    """Observations, [decisions, entries]."""
    advantages: NDArray[np.float64]
    """Reward of offloading minus that of keeping, [decisions]."""
    terms: NDArray[np.float64]
    """The same term by term, unweighted, [decisions, terms], in the order of :data:`synera_env.reward.TERMS`; what is paid has
    a minus (`synera_env.reward.objectives`)."""
    left_out: int


@dataclass(frozen=True)
class BothWays:
    """What decides before and after a decision, and the two knobs that are tried there; best alike but for the offloading."""

    before: Callable[[NDArray[np.float32]], Any]
    """Observation to knobs; it remembers nothing."""
    keep: Any
    offload: Any

    @classmethod
    def of(cls, schema: Schema) -> BothWays:
        """Return that of the reference rule, :data:`REFERENCE`."""
        reference, keep, offload = (schema.presets[name] for name in (REFERENCE, "never", "always"))
        return cls(lambda seen: reference, keep, offload)


def measure_utility(
    train: DecisionEnv, test: DecisionEnv, answers: int, seed: int = 0, finished: Callable[[], object] = lambda: None
) -> Utility:
    """Measure what single decisions are worth, and what rules take of it whose levels are found on training prompts.

    Give worlds where nothing is drawn within an answer (no outages, a constant link and queue): what is drawn differs between
    the two sides and says nothing of the decision.

    Args:
        train: where levels and weights are found.
        test: where they are tried.
        answers: of the reference rule in either world, at most one to a prompt.
        seed: draws the prompts, where they are more.
        finished: called after each answer.

    Raises:
        UncoveredError: in one of the worlds no decision has both its sides inside the recorded graphs.
    """
    known, tried = (decisions(env, answers, seed, finished) for env in (train, test))
    doubts = _doubts(train.schema, known)
    best = np.maximum(tried.advantages, 0.0)
    clairvoyant = _resampled(best, tried.prompts)
    rules = {}
    for name, doubt in doubts.items():
        level = _best_level(doubt(known.seen), known.advantages)
        taken = _resampled(np.where(doubt(tried.seen) >= level, tried.advantages, 0.0), tried.prompts)
        order = ranking(doubt(tried.seen), tried.advantages > 0)
        share = Estimate.of(taken[0] / clairvoyant[0], taken[1:] / clairvoyant[1:]) if clairvoyant.all() else None
        rules[name] = Taken(Estimate.of(taken[0], taken[1:]), share, None if np.isnan(order) else order)
    return Utility(
        prompts=len(np.unique(tried.prompts)),
        decisions=len(best),
        left_out=tried.left_out,
        pays=float((tried.advantages > 0).mean()),
        clairvoyant=Estimate.of(clairvoyant[0], clairvoyant[1:]),
        rules=rules,
    )


def decisions(
    env: DecisionEnv,
    answers: int,
    seed: int = 0,
    finished: Callable[[], object] = lambda: None,
    ways: BothWays | None = None,
) -> Decisions:
    """Meet decisions as the reference rule does, and take each both ways.

    Args:
        env: the world.
        answers: of the reference rule, at most one to a prompt.
        seed: draws the prompts, where they are more.
        finished: called after each answer.
        ways: another rule to meet decisions by, and what is tried at them; None is that of :data:`REFERENCE`.

    Raises:
        UncoveredError: no decision has both its sides inside the recorded graphs.
    """
    told: list[tuple[int, NDArray[np.float32], NDArray[np.float64], float]] = []
    met, ways = 0, ways or BothWays.of(env.schema)

    def both_ways(env: DecisionEnv, planned: PlannedAnswer) -> tuple[list[NDArray[np.float32]], list[_Terms | None]]:
        found = _both_ways(env, planned, ways)
        finished()
        return found

    plan = make_plan(env, min(answers, env.prompt_count), seed)
    for planned, (seen, found) in zip(plan, over_plan(env, plan, both_ways), strict=True):
        met += len(seen)
        weights = np.array(astuple(planned.preference))
        told += [(planned.prompt, s, t, float(weights @ t)) for s, t in zip(seen, found, strict=True) if t is not None]
    if not told:
        raise UncoveredError("no decision can be taken both ways in the recorded graphs; record them with a larger node budget")
    prompts, observations, terms, values = zip(*told, strict=True)
    return Decisions(np.array(prompts), np.stack(observations), np.array(values), np.stack(terms), met - len(told))


_Terms = NDArray[np.float64]
"""What an answer, or a decision, comes to in each term, unweighted, [terms]."""


def _both_ways(
    env: DecisionEnv, planned: PlannedAnswer, ways: BothWays
) -> tuple[list[NDArray[np.float32]], list[_Terms | None]]:
    """The observations of one answer's decisions, and what offloading adds; None where a side leaves the recorded graphs."""
    reference = _Branch(env.schema, planned.preference, ways.before)
    whole, records = _answer(env, planned, reference)
    added: list[_Terms | None] = [None] * len(reference.seen)
    for place, record in enumerate(records if whole is not None else ()):
        instead = ways.keep if record.offloaded else ways.offload
        other, _ = _answer(env, planned, _Branch(env.schema, planned.preference, ways.before, place, instead))
        if whole is not None and other is not None:
            added[place] = whole - other if record.offloaded else other - whole
    return reference.seen, added


class _Branch:
    """Implements `runtime.policy.Policy`: the reference rule, but other knobs at one decision; remembers what it saw."""

    def __init__(
        self,
        schema: Schema,
        preference: Preference,
        before: Callable[[NDArray[np.float32]], Any],
        place: int = -1,
        instead: Any = None,
    ) -> None:
        self.seen: list[NDArray[np.float32]] = []
        """Observations, in their order."""
        self.first_knobs = schema.first_knobs
        self._schema, self._preference = schema, preference
        self._before, self._place, self._instead = before, place, instead

    def begin(self, seed: int) -> None:
        """Nothing is drawn."""

    def decide(self, point: Any, records: Sequence[Any]) -> Any:
        """Look, and set the knobs of the place."""
        self.seen.append(self._schema.encode(point, records, self._preference))
        return self._instead if len(records) == self._place else self._before(self.seen[-1])


def _answer(env: DecisionEnv, planned: PlannedAnswer, branch: _Branch) -> tuple[_Terms | None, Sequence[Any]]:
    """What an answer comes to, None where it leaves the recorded graphs, and its records."""
    options = {name: getattr(planned, name) for name in ("prompt", "link", "link_offset_seconds", "preference")}
    episode = env.episode(seed=planned.seed, options=options)
    records = episode.session.records
    try:
        for _ in drive(episode.session, episode.prompt_tokens, branch, planned.seed):
            records = episode.session.records
        terms = np.sum([objectives(record.cost, 0.0) for record in records], axis=0)
        terms[0] = episode.score()
        return terms, records
    except UncoveredError:
        return None, records


_Doubt = Callable[[NDArray[np.float32]], NDArray[np.floating]]
"""Observations, [decisions, entries], to how doubtful their drafts are, [decisions]."""


def _doubts(schema: Schema, known: Decisions) -> dict[str, _Doubt]:
    """By name, what rules look at."""

    def of(figure: Figure) -> _Doubt:
        read, sign = figure.reader(schema), -1.0 if figure.sure else 1.0
        return lambda seen: sign * read(seen)

    return {name: of(figure) for name, figure in FIGURES.items()} | {LINEAR: _fitted(known)}


def _fitted(known: Decisions) -> _Doubt:
    """Ridge regression of the advantage on all entries, standardised."""
    seen = known.seen.astype(np.float64)
    centre, scale = seen.mean(0), seen.std(0)
    scale[scale == 0] = 1.0
    entries, wanted = (seen - centre) / scale, known.advantages - known.advantages.mean()
    gram = entries.T @ entries / len(entries) + _RIDGE * np.eye(len(centre))
    weights = np.linalg.solve(gram, entries.T @ wanted / len(entries))
    return lambda observations: (observations - centre) / scale @ weights


def _best_level(doubts: NDArray[np.floating], advantages: NDArray[np.float64]) -> float:
    """The level from which on to offload takes the most; infinity where it never pays."""
    order = np.argsort(-doubts, kind="stable")
    levels, taken = doubts[order], np.cumsum(advantages[order])
    taken[:-1][levels[:-1] == levels[1:]] = -np.inf  # equal doubts go together
    best = int(np.argmax(taken))
    return float(levels[best]) if taken[best] > 0 else float("inf")


def _resampled(values: NDArray[np.float64], prompts: NDArray[np.intp]) -> NDArray[np.float64]:
    """The mean of values, first as they are, then of resampled prompts with all that is theirs, [1 + resamples]."""
    _, place = np.unique(prompts, return_inverse=True)
    sums, counts = np.bincount(place, values), np.bincount(place)
    weights = np.random.default_rng(0).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), _RESAMPLES)
    weights = np.concatenate([np.ones((1, len(sums)), int), weights])
    return (weights @ sums) / (weights @ counts)
