"""The fit of those constants that the paper does not state to the figures of its table.

The figures do not tell the constants sharply, and a run's noise makes small hills: of fits to all rows one that began at the guesses ended
with a figure 13 % off at 2.8 requests/s, others 9 to 10 % off at 4.7 to 5.3. So the fit to all rows begins where the one to two rows ended.
What does not live here: the constants that it found, which are kept (testbed.py), and the simulation (simulation.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, fields

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from runtime.errors import SettingError
from traces.hat.ablation import simulated
from traces.hat.run import Load
from traces.hat.testbed import GUESSED, Fitted, Method, Testbed

_PULL = 0.02
"""A constant that is off its guess by a factor e counts as a figure that is off by 2 %: figures decide wherever they can tell."""
_STEP = 0.04
"""Of numeric derivatives, as a share of a constant: above the noise of a run."""
_SEEDS = (1_000, 1_001)
"""Other than those of the table that is printed."""

_ROUNDS = 12
MOST_TRIALS = (len(fields(Fitted)) + 1) * _ROUNDS
"""Sets of constants that a fit looks at, at most."""


def fit(
    methods: Sequence[Method],
    start: Fitted = GUESSED,
    rounds: int = _ROUNDS,
    answers: int = 90,
    each: Callable[[], None] = lambda: None,
) -> Fitted:
    """Fit all constants to the TTFT and TBT of these rows: least squares of relative differences, and of the pull to the guesses.

    Args:
        methods: of the table.
        start: where the fit begins; what it is pulled to are always the guesses.
        rounds: most of them.
        answers: of a run.
        each: called after each set of runs.
    """
    guessed = np.array(astuple(GUESSED))
    wanted = np.array([(method.ttft_ms, method.tbt_ms) for method in methods])

    def residuals(at: NDArray[np.float64]) -> NDArray[np.float64]:
        pulled = _PULL * (at - 1)
        try:
            fitted = _constants(guessed, at)
            load = Load(rate=fitted.requests_per_second, answers=answers)
            rows = simulated(methods, Testbed.of(fitted), load, _SEEDS)
        except SettingError:  # the cloud would be too slow for the 2,000-token prompt
            return np.concatenate([np.ones(wanted.size), pulled])
        each()
        found = np.array([(row.ttft_ms.mean, row.tbt_ms.mean) for row in rows])
        return np.concatenate([(found / wanted - 1).ravel(), pulled])

    best = least_squares(
        residuals, 1 + np.log(np.array(astuple(start)) / guessed), diff_step=_STEP, max_nfev=rounds, xtol=1e-3, ftol=1e-3
    )
    return _constants(guessed, best.x)


def _constants(guessed: NDArray[np.float64], at: NDArray[np.float64]) -> Fitted:
    """Logarithms around 1, as relative steps are taken of them."""
    values = guessed * np.exp(at - 1)
    values[-1] = min(values[-1], 1.0)  # a share
    return Fitted(*values.tolist())
