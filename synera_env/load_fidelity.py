"""What checks met at a real cloud held against what a model says that they meet: distributions, and how both go over time.

What does not live here: the run (scripts/) and the model (traces/workload/shared_cloud.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.settings import above
from traces.workload.shared_cloud import Met

_TOLERANCE = {"queue_seconds": 1e-3, "compute_seconds": 1e-3, "share_seconds": 1e-3, "load": 0.5}
"""By quantity; what a message's way through two event loops takes."""


@dataclass(frozen=True)
class ObservedCheck:
    """A check of a real cloud."""

    at_seconds: float
    """When it reached the cloud, from the beginning of the workload."""
    tokens: int
    """That the LLM processed for it."""
    met: Met


@dataclass(frozen=True)
class Middle:
    """A distribution, as three figures."""

    mean: float
    p50: float
    p95: float


@dataclass(frozen=True)
class Compared:
    """One quantity of the checks, in the real cloud and by the model."""

    real: Middle
    model: Middle
    kolmogorov: float
    """Largest difference of the two distribution functions, 0..1. A mass that is shifted by next to nothing counts in full."""
    kolmogorov_apart: float
    """The same, of what differs by more than the tolerance: 1 ms, for the load less than one."""
    correlation: float
    """Of the means of both over stretches of time; NaN where one does not change."""
    mean_error: float
    """Mean of |model - real|, check by check."""


def compare(
    checks: Sequence[ObservedCheck], model: Callable[[float, int], Met], stretch_seconds: float = 1.0
) -> dict[str, Compared]:
    """Ask a model what each of the checks meets, and compare; by quantity of :class:`Met`.

    Args:
        checks: of the real cloud.
        model: what a check meets that comes at a time with so many tokens.
        stretch_seconds: length of the stretches whose means are correlated.

    Raises:
        SettingError: there are no checks, or stretches have no length.
    """
    above("stretch_seconds", stretch_seconds, 0.0)
    if not checks:
        raise SettingError("there are no checks to compare; take a longer workload")
    said = [model(check.at_seconds, check.tokens) for check in checks]
    stretches = np.floor(np.array([check.at_seconds for check in checks]) / stretch_seconds).astype(int)
    found = {}
    for name in _TOLERANCE:
        real = np.array([getattr(check.met, name) for check in checks], float)
        modelled = np.array([getattr(met, name) for met in said], float)
        found[name] = Compared(
            _middle(real),
            _middle(modelled),
            kolmogorov_distance(real, modelled),
            kolmogorov_distance(real, modelled, _TOLERANCE[name]),
            _correlation(_means(real, stretches), _means(modelled, stretches)),
            float(np.mean(np.abs(modelled - real))),
        )
    return found


def kolmogorov_distance(one: NDArray[np.float64], other: NDArray[np.float64], tolerance: float = 0.0) -> float:
    """Return the largest difference of the distribution functions F and G of two samples.

    With a tolerance t it is the largest of F(x) - G(x + t) and G(x) - F(x + t), which is 0 for a shift by up to t.
    """

    def above(high: NDArray[np.float64], low: NDArray[np.float64]) -> float:
        at = np.concatenate([high, low - tolerance])
        shares = [
            np.searchsorted(np.sort(each), x, side="right") / len(each) for each, x in ((high, at), (low, at + tolerance))
        ]
        return float(np.max(shares[0] - shares[1]))

    return max(0.0, above(one, other), above(other, one))


def _middle(values: NDArray[np.float64]) -> Middle:
    p50, p95 = np.quantile(values, [0.5, 0.95])
    return Middle(float(values.mean()), float(p50), float(p95))


def _means(values: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float64]:
    _, places = np.unique(groups, return_inverse=True)
    return np.bincount(places, values) / np.bincount(places)


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    if len(one) < 2 or min(np.ptp(one), np.ptp(other)) < 1e-9:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
