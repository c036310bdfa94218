"""From rows at any times to a series at a fixed step. A step's value is the mean over its time, so what passes in all stays.

Rows of one time are averaged. What lies beyond the last whole step is left out. A rate that is slower than a link trace
can state (100 bit/s) is an outage.

What does not live here: what a row's value holds for (the readers).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from traces.errors import TraceError
from traces.links.trace import LONGEST_STEP, MOST_SAMPLES, SHORTEST_STEP, SLOWEST_MBPS

Series = NDArray[np.float64]
PACKET_BITS = 1500 * 8
_ROUNDING = 1e-6  # of a step: a trace of n steps lasts n of them, whatever floats make of it


def steps_within(seconds: float, step_seconds: float) -> int:
    """Return how many whole steps fit.

    Raises:
        TraceError: none does, or more than a link trace may have.
    """
    if not seconds >= step_seconds * (1 - _ROUNDING):
        raise TraceError(f"it lasts {seconds:g} s, and a link trace at least a step of {step_seconds:g} s")
    if seconds > MOST_SAMPLES * step_seconds:
        raise TraceError(f"it lasts {seconds:g} s, and {MOST_SAMPLES} steps of {step_seconds:g} s are the most")
    return int(seconds / step_seconds + _ROUNDING)


def averaged(times: Series, values: Series) -> tuple[Series, Series]:
    """Return each time once, with the mean of its values.

    Args:
        times: in seconds, not falling, [rows].
        values: [rows].
    """
    unique, place, count = np.unique(times, return_inverse=True, return_counts=True)
    return unique, np.bincount(place, values) / count


def over_intervals(edges: Series, values: Series, step_seconds: float) -> Series:
    """Return the means over steps of what is constant between edges: [steps].

    Args:
        edges: in seconds, rising, [intervals + 1]; the first step begins at the first.
        values: [intervals].
        step_seconds: length of a step.

    Raises:
        TraceError: there is no whole step, or too many.
    """
    steps = steps_within(float(edges[-1] - edges[0]), step_seconds)
    at = edges - edges[0]
    if steps == len(values) and np.allclose(at, step_seconds * np.arange(steps + 1), rtol=0, atol=_ROUNDING * step_seconds):
        return values.copy()  # at that step already: exactly what was recorded
    passed = np.concatenate([[0.0], np.cumsum(values * np.diff(at))])
    means = np.diff(np.interp(step_seconds * np.arange(steps + 1), at, passed)) / step_seconds
    return np.clip(means, values.min(), values.max())  # no further than rounding takes it


def held(times: Series, values: Series, start: float, stop: float, step_seconds: float) -> Series:
    """Return the means over steps from `start` to `stop` of values that hold until the next row: [steps].

    The first holds from `start`, the last until `stop`.

    Args:
        times: in seconds, not falling, [rows].
        values: NaN where nothing was measured, [rows]; at least one is.
        start: where the first step begins; not after the first row.
        stop: after the last row.
        step_seconds: length of a step.

    Raises:
        TraceError: there is no whole step, or too many.
    """
    known = ~np.isnan(values)
    times, values = averaged(times[known], values[known])
    return over_intervals(np.concatenate([[start], times[1:], [stop]]), values, step_seconds)


def packets_per_step(times_ms: NDArray[np.int64], steps: int, step_ms: int) -> Series:
    """Return the rate in Mbit/s of chances to send one packet of 1500 bytes each: [steps]."""
    counted = np.bincount(times_ms[times_ms < steps * step_ms] // step_ms, minlength=steps)
    return counted.astype(np.float64) * (PACKET_BITS / 1e3 / step_ms)


def even_step(times: Series) -> float:
    """Return the step for rows at these times, [rows >= 2]: the median of theirs, as far as a link trace may have it.

    Raises:
        TraceError: all rows are of one time.
    """
    steps = np.diff(np.unique(times))
    if not len(steps):
        raise TraceError(f"all its rows are of one time, {times[0]:.10g}")
    return float(np.clip(np.median(steps), SHORTEST_STEP, LONGEST_STEP))


def rates(mbps: Series) -> Series:
    """Return rates with what is too slow to be stated as an outage."""
    return np.where(mbps < SLOWEST_MBPS, 0.0, mbps)
