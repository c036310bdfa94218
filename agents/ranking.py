"""Whether controllers rank alike in two worlds: replay against live, on answers to one plan.

What does not live here: how live answers come about (fleet.py), and how close single answers are (agreement.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from agents.comparison import Estimate, resampled
from agents.evaluation import Answered
from runtime.errors import SettingError

LEAST_CONTROLLERS = 3


@dataclass(frozen=True)
class Ranked:
    """Mean rewards in both worlds, and how alike they rank."""

    rewards: Mapping[str, tuple[Estimate, Estimate]]
    """By controller: replay, live."""
    correlation: Estimate
    """Spearman's, over controllers; its interval draws prompts, the same for all and in both worlds."""
    left_out: tuple[str, ...]
    """Controllers that kept no answer in one of the worlds."""


def rank_correlation(replay: Mapping[str, Sequence[Answered]], live: Mapping[str, Sequence[Answered]]) -> Ranked:
    """Compare how controllers rank in replay and live.

    Args:
        replay: by controller, its outcomes of one plan.
        live: likewise, of the same plan.

    Raises:
        SettingError: fewer than :data:`LEAST_CONTROLLERS` have answers in both worlds.
        ValueError: they were not run on one plan.
    """
    names = [name for name in replay if name in live]
    if len({tuple(a.prompt for a in world[name]) for name in names for world in (replay, live)}) > 1:
        raise ValueError("the answers of the controllers are not of one plan")
    kept = [name for name in names if all(any(a.metrics for a in world[name]) for world in (replay, live))]
    if len(kept) < LEAST_CONTROLLERS:
        raise SettingError(
            f"{len(kept)} controllers have answers in replay and live; ranks of fewer than {LEAST_CONTROLLERS} say nothing"
        )
    one, other = (np.array([resampled(world[name], "reward") for name in kept]) for world in (replay, live))
    found = spearman(one, other)
    rewards = {name: (Estimate.of(a[0], a[1:]), Estimate.of(b[0], b[1:])) for name, a, b in zip(kept, one, other, strict=True)}
    known = found[1:][np.isfinite(found[1:])]
    correlation = Estimate.of(found[0], known) if len(known) else Estimate(float(found[0]), float("nan"), float("nan"))
    return Ranked(rewards, correlation, tuple(name for name in replay if name not in kept))


def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return `scipy.stats.spearmanr` of each column, [columns], of two [controllers, columns]; NaN where all are tied."""
    ranks = [rankdata(each, axis=0) for each in (one, other)]
    a, b = (each - each.mean(0) for each in ranks)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0))
