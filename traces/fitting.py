"""Cost coefficients fitted to timings, and how well they give them back.

What does not live here: the timings, measured (record_profile.py) or published (published.py), and the profiles' form (profile.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from traces.profile import FitError


def fit_costs(rows: Sequence[Sequence[float]], taken: Sequence[float]) -> list[float]:
    """Fit non-negative costs to timings by least squares of the relative errors, so that short and long work count alike.

    Args:
        rows: how often each cost occurs in each timing [timings, costs].
        taken: the timings, above 0.

    Returns:
        The costs, with four decimals.
    """
    weights = 1.0 / np.array(taken)
    solution, _ = nnls(np.array(rows) * weights[:, None], np.array(taken) * weights)
    return [round(float(x), 4) for x in solution]


def fit_errors(
    rows: Sequence[Sequence[float]], taken: Sequence[float], costs: Sequence[float], groups: Sequence[str]
) -> tuple[FitError, ...]:
    """Return the error of fitted costs over all timings, and, where there are several, over each group of them.

    Args:
        rows: as fitted.
        taken: likewise.
        costs: the fit.
        groups: of each timing.
    """
    timings, predicted = np.array(taken, float), np.array(rows, float) @ np.array(costs, float)
    names = list(dict.fromkeys(groups))
    of_group = np.array(groups)
    members = {"all": np.ones(len(timings), bool)} | ({name: of_group == name for name in names} if len(names) > 1 else {})
    return tuple(_error(name, timings[inside], predicted[inside]) for name, inside in members.items())


def _error(group: str, timings: np.ndarray, predicted: np.ndarray) -> FitError:
    relative = np.abs(predicted - timings) / timings
    varied = float(np.sum((timings - timings.mean()) ** 2))
    explained = round(1.0 - float(np.sum((predicted - timings) ** 2)) / varied, 5) if varied > 0 else None
    p95 = float(np.quantile(relative, 0.95))
    return FitError(group, len(timings), explained, round(float(relative.mean()), 5), round(p95, 5))
