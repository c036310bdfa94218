"""How long a message's bits take on a link whose rate is constant within each step and repeats: the formula, once.

Scalars and one-dimensional series of floats alone, so that compiled code can share it. What does not live here: the trace
with its round trips (trace.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def bits_passed(bits_per_second: Sequence[float], step_seconds: float) -> list[float]:
    """Return how many bits have passed at each edge of a step: [samples + 1], from 0 to a period's bits."""
    return list(accumulate((rate * step_seconds for rate in bits_per_second), initial=0.0))


def one_way_seconds(
    at_seconds: float,
    size_bytes: int,
    step_seconds: float,
    half_rtt_seconds: Sequence[float],
    bits_per_second: Sequence[float],
    passed: Sequence[float],
) -> float:
    """Return the time of a message in one direction: half the round trip at sending time, plus the time that its bits need at
    the rates from then on.

    Args:
        at_seconds: when it is sent.
        size_bytes: its size.
        step_seconds: of the trace.
        half_rtt_seconds: [n].
        bits_per_second: see :func:`transfer_seconds`, likewise the last one.
        passed: [n + 1].
    """
    half_rtt = half_rtt_seconds[int(at_seconds / step_seconds) % len(half_rtt_seconds)]
    return half_rtt + transfer_seconds(at_seconds, size_bytes * 8.0, step_seconds, bits_per_second, passed)


def transfer_seconds(
    at_seconds: float, bits: float, step_seconds: float, bits_per_second: Sequence[float], passed: Sequence[float]
) -> float:
    """Return the time until `bits` have passed on the link, counted from `at_seconds` after its start.

    With r_i the rate in step i, s the length of a step, n samples, and B(t) the bits that pass from 0 to t, which grow
    linearly within a step (B(k s) = `passed[k]` for k up to n, and B(t + n s) = B(t) + B(n s)):

        time = min { T >= 0 : B(at + T) - B(at) >= bits }

    The rest of the step in which the message is sent comes first, as most messages fit in it. The bits left over are
    whole periods and a remainder, whose step is found in `passed` by bisection.

    Args:
        at_seconds: when the message is sent, not negative.
        bits: its size; 0 takes no time, even in an outage.
        step_seconds: s.
        bits_per_second: r_i, [n]; at least one is positive.
        passed: :func:`bits_passed` of them, [n + 1].
    """
    if bits <= 0.0:
        return 0.0
    samples = len(bits_per_second)
    index = int(at_seconds / step_seconds)
    wait = (index + 1) * step_seconds - at_seconds
    rate = bits_per_second[index % samples]
    if bits <= rate * wait:
        return bits / rate
    left = bits - rate * wait
    first = (index + 1) % samples
    period = passed[samples]
    periods, left = left // period, left % period
    if left == 0.0:  # ends with a period's last bit, not with the outage that may follow it
        periods, left = periods - 1.0, period
    steps = periods * samples - first
    target = passed[first] + left
    if target > period:
        target -= period
        steps += samples
    low, high = 1, samples  # the first edge at which `target` bits have passed
    while low < high:
        middle = (low + high) // 2
        if passed[middle] < target:
            low = middle + 1
        else:
            high = middle
    return wait + (steps + low - 1) * step_seconds + (target - passed[low - 1]) / bits_per_second[low - 1]
