"""How well each figure of a draft tells the chunks that need a check from those that do not, in replay.

What does not live here: what a rule that looks at a figure gains (ablation.py).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

from agents.ablation import Watched
from agents.comparison import ADVICE, ENOUGH, Estimate
from agents.evaluation import PlannedAnswer, answer, make_plan, over_plan
from agents.rules import FIGURES, ChanceRule
from synera_env import DecisionEnv, UncoveredError, drive

OFFLOAD_RATE = 0.5
"""At which the chunks are met: each is checked or not by the toss of a coin."""
UNCERTAIN = 0.3
"""Share of the chunks, the least confident ones, among which a figure shows what it adds to confidence."""
_RESAMPLES = 500


@dataclass(frozen=True)
class Signal:
    """How well one figure ranks chunks by doubt: the share of pairs (one that needs a check, one that does not) that it puts
    in the right order, so 0.5 is chance and below it the order is the wrong way round. None where there are no pairs.
    """

    rejected: Estimate | None
    """Needs a check: the LLM would reject a token of the chunk."""
    matters: Estimate | None
    """Needs a check: kept instead of checked, the chunk costs task score, though the LLM writes all that follows."""
    matters_uncertain: Estimate | None
    """The same among the :data:`UNCERTAIN` least confident chunks."""


@dataclass(frozen=True)
class Signals:
    """What is seen of the figures."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    chunks: int
    covered: float
    """Share of the chunks met that could be settled both ways inside the recorded graphs; the others are left out."""
    rejected: float
    """Share of the chunks of which the LLM would reject a token."""
    matters: float
    """Share of the chunks that cost task score when they are kept."""
    figures: dict[str, Signal]


@dataclass(frozen=True)
class _Chunk:
    prompt: int
    seen: NDArray[np.float32]
    rejected: bool
    matters: bool


def measure_signals(env: DecisionEnv, answers: int, seed: int = 0, finished: Callable[[], object] = lambda: None) -> Signals:
    """Meet chunks as chance does, and settle each both ways.

    Args:
        env: a world without outages, as a check that is lost says nothing.
        answers: how many; all their chunks count.
        seed: of the plan.
        finished: called after each answer.

    Raises:
        UncoveredError: no chunk could be settled both ways within the recorded graphs.
    """

    def chunks_of(env: DecisionEnv, planned: PlannedAnswer) -> list[_Chunk | None]:
        found = _chunks(env, planned)
        finished()
        return found

    met = [chunk for found in over_plan(env, make_plan(env, answers, seed), chunks_of) for chunk in found]
    chunks = [chunk for chunk in met if chunk is not None]
    if not chunks:
        raise UncoveredError(f"no chunk can be settled both ways inside the recorded graphs; {ADVICE}")
    if (covered := len(chunks) / len(met)) < ENOUGH:
        warnings.warn(
            f"how figures rank chunks rests on {covered:.0%} of those met, the others left the recorded graphs; {ADVICE}",
            stacklevel=2,
        )
    observations = np.stack([chunk.seen for chunk in chunks])
    prompts = np.array([chunk.prompt for chunk in chunks])
    rejected = np.array([chunk.rejected for chunk in chunks])
    matters = np.array([chunk.matters for chunk in chunks])
    doubts = {name: (-1 if figure.sure else 1) * figure.reader(env.schema)(observations) for name, figure in FIGURES.items()}
    uncertain = doubts["confidence"] >= np.quantile(doubts["confidence"], 1 - UNCERTAIN)
    found = {
        name: Signal(
            _ranking(doubt, rejected, prompts),
            _ranking(doubt, matters, prompts),
            _ranking(doubt[uncertain], matters[uncertain], prompts[uncertain]),
        )
        for name, doubt in doubts.items()
    }
    return Signals(len(chunks), covered, float(rejected.mean()), float(matters.mean()), found)


def ranking(doubts: NDArray[np.floating], needs: NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve: how likely what needs it has the larger doubt, ties half; NaN without pairs."""
    others = np.sort(doubts[~needs])
    if not needs.any() or not len(others):
        return float("nan")
    below, upto = (np.searchsorted(others, doubts[needs], side=side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(others)))


def _ranking(doubts: NDArray[np.floating], needs: NDArray[np.bool_], prompts: NDArray[np.intp]) -> Estimate | None:
    """With its interval: prompts are resampled, with all their chunks; resamples without pairs are left out."""
    whole = ranking(doubts, needs)
    if np.isnan(whole):
        return None
    places = [np.flatnonzero(prompts == prompt) for prompt in np.unique(prompts)]
    rng, resampled = np.random.default_rng(0), []
    for _ in range(_RESAMPLES):
        drawn = np.concatenate([places[i] for i in rng.integers(len(places), size=len(places))])
        resampled.append(ranking(doubts[drawn], needs[drawn]))
    known = np.array(resampled)
    return Estimate.of(whole, known[~np.isnan(known)])


def _chunks(env: DecisionEnv, planned: PlannedAnswer) -> list[_Chunk | None]:
    """The chunks of one answer; None for one that leaves the recorded graphs, either way."""
    schema, watched = env.schema, Watched(ChanceRule(OFFLOAD_RATE, env.schema))
    met = answer(env, watched, planned)
    never, always = schema.presets["never"], schema.presets["always"]
    found: list[_Chunk | None] = []
    for place, seen in enumerate(watched.seen):
        before = [record.knobs for record in met.records[:place]]
        try:
            checked, score = _settled(env, planned, [*before, always], always)
            _, kept = _settled(env, planned, [*before, never], always)
        except UncoveredError:
            found.append(None)
            continue
        record = checked[place]
        found.append(_Chunk(planned.prompt, seen, record.accepted < record.judged, score - kept > 1e-6))
    return found


def _settled(env: DecisionEnv, planned: PlannedAnswer, knobs: Sequence[Any], then: Any) -> tuple[Sequence[Any], float]:
    """Answer by knobs that are given, and by others from then on; return the records and the score."""
    options = {name: getattr(planned, name) for name in ("prompt", "link", "link_offset_seconds", "preference")}
    episode = env.episode(seed=planned.seed, options=options)
    for _ in drive(episode.session, episode.prompt_tokens, _Script(knobs, then, env.schema.first_knobs), planned.seed):
        pass
    return episode.session.records, episode.score()


class _Script:
    """Implements `runtime.policy.Policy`: sets what is written."""

    def __init__(self, knobs: Sequence[Any], then: Any, first_knobs: Any) -> None:
        self._knobs, self._then, self.first_knobs = knobs, then, first_knobs

    def begin(self, seed: int) -> None:
        """Nothing is drawn."""

    def decide(self, point: Any, records: Sequence[Any]) -> Any:
        """Set the next knobs of the script."""
        return self._knobs[len(records)] if len(records) < len(self._knobs) else self._then
