"""The metrics of an answer, defined once, and intervals for their means. No environment, no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.session import Cost, StepRecord
from synera_env.reward import Preference, reward_terms


@dataclass(frozen=True)
class EpisodeMetrics:
    """One answer. Times are of the world that produced them: simulated, paced or real."""

    quality: float
    """Task score in 0..1; NaN where nobody can tell."""
    reward: float
    """Sum of the reward's terms over the steps; NaN where the quality is."""
    ttft_seconds: float
    """Request to first committed token; to the end where there was none."""
    tbt_mean_seconds: float
    """Mean gap between committed tokens; tokens of one chunk are committed together."""
    tbt_p95_seconds: float
    seconds: float
    """Request to last committed token."""
    tokens: int
    tokens_per_second: float
    chunks: int
    offload_rate: float
    """Steps that asked the cloud / steps."""
    acceptance_rate: float
    """Accepted draft tokens / draft tokens that the cloud judged; NaN when it judged none."""
    cloud_seconds: float
    """This answer's share of cloud compute."""
    cloud_tokens: int
    uplink_bytes: int
    downlink_bytes: int
    joules: float
    lost_chunks: int
    """Steps that asked a cloud in vain."""
    hit_rate: float
    """Right guesses / guesses that the device drafted on from while the cloud was asked; NaN when it made none."""
    saved_seconds: float
    """Waiting that such drafts filled with work that was kept, less what they delayed."""
    wasted_joules: float
    """Energy of such drafts that were not kept; part of `joules`."""


Charged = Callable[[Any], Cost]
"""Tells what the reward charges for a record."""


def cost_of(record: StepRecord) -> Cost:
    """What the reward charges for a record, unless a system weighs times apart."""
    return record.cost


def episode_metrics(
    records: Sequence[StepRecord],
    quality: float,
    preference: Preference,
    charged: Charged = cost_of,
) -> EpisodeMetrics:
    """Compute the metrics of a finished answer from its records; the reward is that of the preference.

    Args:
        records: of its steps, at least one.
        quality: its task score; NaN where nobody can tell.
        preference: the weights.
        charged: what the reward charges for a record; by default what it cost.
    """
    times = [r.committed_at for r in records for _ in r.committed] or [records[-1].committed_at]
    gaps = [later - sooner for sooner, later in pairwise(times)] or [0.0]
    tokens, judged = sum(len(r.committed) for r in records), sum(r.judged for r in records)
    costs, paid = [r.cost for r in records], [charged(r) for r in records]
    aheads = [r.ahead for r in records if r.ahead is not None]
    qualities = [0.0] * (len(records) - 1) + [quality]
    return EpisodeMetrics(
        quality=quality,
        reward=sum(sum(reward_terms(c, q, preference).values()) for c, q in zip(paid, qualities, strict=True)),
        ttft_seconds=times[0],
        tbt_mean_seconds=float(np.array(gaps).sum()) / len(gaps),
        tbt_p95_seconds=quantile(gaps, 0.95),
        seconds=times[-1],
        tokens=tokens,
        tokens_per_second=tokens / max(times[-1], 1e-9),
        chunks=len(records),
        offload_rate=sum(r.offloaded for r in records) / len(records),
        acceptance_rate=sum(r.accepted for r in records) / judged if judged else float("nan"),
        cloud_seconds=sum(c.cloud_seconds for c in costs),
        cloud_tokens=sum(c.cloud_tokens for c in costs),
        uplink_bytes=sum(c.uplink_bytes for c in costs),
        downlink_bytes=sum(c.downlink_bytes for c in costs),
        joules=sum(c.joules for c in costs),
        lost_chunks=sum(r.error is not None for r in records),
        hit_rate=sum(a.hit for a in aheads) / len(aheads) if aheads else float("nan"),
        saved_seconds=sum(a.saved_seconds for a in aheads),
        wasted_joules=sum(a.wasted_joules for a in aheads),
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return `np.quantile(values, share)`, to the bit; that, made for arrays of any shape, takes as long as some tens of numbers do.

    Args:
        values: at least one, all finite.
        share: 0..1.
    """
    ranked, wanted = sorted(values), share * (len(values) - 1)
    below = int(wanted)
    low, high, way = ranked[below], ranked[min(below + 1, len(ranked) - 1)], wanted - below
    return low + (high - low) * way if way < 0.5 else high - (high - low) * (1 - way)


def summarise(
    episodes: Sequence[EpisodeMetrics | Mapping[str, float]],
    prompts: Sequence[int] | None = None,
    seed: int = 0,
    weights: Sequence[float] | NDArray[np.float64] | None = None,
) -> dict[str, float]:
    """Return the mean of every metric over answers, and a 95 % bootstrap interval of quality and reward.

    Answers for which a metric is NaN are left out of that metric's mean.

    Args:
        episodes: the answers.
        prompts: which prompt each answers; answers to one prompt are not independent, so the interval then resamples
            prompts (their means), not answers.
        seed: of the resampling.
        weights: of the answers, above 0: how many each one stands for; None is 1.

    Raises:
        ValueError: there are no answers.
    """
    if not episodes:
        raise ValueError("no answers to summarise")
    if prompts is not None and len(prompts) != len(episodes):
        raise ValueError(f"{len(prompts)} prompts for {len(episodes)} answers")
    rows = [asdict(e) if isinstance(e, EpisodeMetrics) else dict(e) for e in episodes]
    each = np.ones(len(rows)) if weights is None else np.asarray(weights, float)
    units = np.arange(len(rows)) if prompts is None else np.asarray(prompts)
    summary: dict[str, float] = {"answers": len(rows)}
    for name in rows[0]:
        values = np.array([row[name] for row in rows], float)
        known = ~np.isnan(values)
        summary[name] = float(np.average(values[known], weights=each[known])) if known.any() else float("nan")
        if name in ("quality", "reward"):
            _, place = np.unique(units[known], return_inverse=True)
            stands_for = np.bincount(place, each[known]).astype(float)
            means = np.bincount(place, each[known] * values[known]) / stands_for
            summary[f"{name}_low"], summary[f"{name}_high"] = bootstrap_interval(means, seed, weights=stands_for)
    return summary


def bootstrap_interval(
    values: NDArray[np.float64], seed: int = 0, resamples: int = 2000, weights: NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean, weighted where weights are given; NaN where there are no values."""
    if not len(values):
        return float("nan"), float("nan")
    weights = np.ones(len(values)) if weights is None else weights
    drawn = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    low, high = np.quantile((values * weights)[drawn].sum(1) / weights[drawn].sum(1), [0.025, 0.975])
    return float(low), float(high)
