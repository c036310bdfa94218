"""Links that are made up: one that never changes, one that breaks once, one that alternates, and any link with outages put into it.

What does not live here: the trace itself (trace.py) and link files (store.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from runtime.settings import within
from traces.links.trace import (
    FASTEST_MBPS,
    LONGEST_RTT_MS,
    LONGEST_STEP,
    MOST_SAMPLES,
    SERIES,
    SHORTEST_STEP,
    SLOWEST_MBPS,
    LinkTrace,
)


def constant_link(rtt_ms: float = 60.0, uplink_mbps: float = 10.0, downlink_mbps: float = 30.0) -> LinkTrace:
    """A link that never changes.

    Raises:
        SettingError: a value out of the range that :class:`LinkTrace` states.
    """
    _require_speed(rtt_ms, uplink_mbps, downlink_mbps)
    one = np.ones(1)
    return LinkTrace(f"constant-{rtt_ms:g}ms", "constant", 1.0, rtt_ms * one, uplink_mbps * one, downlink_mbps * one)


def breaking_link(at_seconds: float, sound: LinkTrace, broken: LinkTrace, seconds: float = 600.0) -> LinkTrace:
    """A link that is like the start of one link until it breaks, and like the start of another from then on.

    Args:
        at_seconds: when, 1e-3 to 3600; to be met there, an answer must start where the link does.
        sound: what it is like before.
        broken: what it is like afterwards.
        seconds: how long it stays broken, at least; then it repeats.

    Raises:
        SettingError: a time that is out of its range.
    """
    within("at_seconds", at_seconds, SHORTEST_STEP, LONGEST_STEP)
    within("seconds", seconds, at_seconds, (MOST_SAMPLES - 1) * at_seconds)
    after = math.ceil(seconds / at_seconds)
    rtt, up, down = (np.repeat([getattr(each, name)[0] for each in (sound, broken)], (1, after)) for name in SERIES)
    return LinkTrace(f"breaking-{at_seconds:g}s", "breaking", float(at_seconds), rtt, up, down)


def _require_speed(rtt_ms: float, uplink_mbps: float, downlink_mbps: float) -> None:
    within("rtt_ms", rtt_ms, 0, LONGEST_RTT_MS)
    within("uplink_mbps", uplink_mbps, SLOWEST_MBPS, FASTEST_MBPS)
    within("downlink_mbps", downlink_mbps, SLOWEST_MBPS, FASTEST_MBPS)


@dataclass(frozen=True)
class LinkState:
    """One state of the Markov generator.

    Raises:
        SettingError: a value out of the range that :class:`LinkTrace` states, or no stay.
    """

    rtt_ms: float
    """Median round trip; samples spread log-normally around it."""
    uplink_mbps: float
    downlink_mbps: float
    dwell_seconds: float
    """Mean stay, 1e-3 to 1e6."""

    def __post_init__(self) -> None:
        _require_speed(self.rtt_ms, self.uplink_mbps, self.downlink_mbps)
        within("dwell_seconds", self.dwell_seconds, 1e-3, 1e6)


GOOD = LinkState(rtt_ms=55.0, uplink_mbps=12.0, downlink_mbps=40.0, dwell_seconds=6.0)
BAD = LinkState(rtt_ms=280.0, uplink_mbps=0.4, downlink_mbps=1.5, dwell_seconds=2.5)


def markov_link(
    seed: int,
    seconds: float = 120.0,
    good: LinkState = GOOD,
    bad: LinkState = BAD,
    step_seconds: float = 0.1,
    spread: float = 0.25,
    family: str = "markov",
) -> LinkTrace:
    """A link that alternates between a good and a bad state with exponential stays (Gilbert-Elliott).

    Args:
        seed: makes the trace, not negative; the same seed, the same trace.
        seconds: its length; at most a million steps.
        good: the state it starts in, three times out of four.
        bad: the other.
        step_seconds: sampling step.
        spread: standard deviation of the logarithm of the round trip and rates around their medians, at most 2.
        family: names the kind of link that the states describe.

    Raises:
        SettingError: an argument that is out of its range.
        TraceError: the spread took a sample out of the range that :class:`LinkTrace` states.
    """
    within("seed", seed, 0)
    within("step_seconds", step_seconds, SHORTEST_STEP, LONGEST_STEP)
    within("seconds", seconds, 0, MOST_SAMPLES * step_seconds)
    within("spread", spread, 0, 2)
    rng = np.random.default_rng([seed, 1])
    samples = max(1, round(seconds / step_seconds))
    is_good, place = rng.random() < 0.75, 0
    rtt, up, down = np.empty(samples), np.empty(samples), np.empty(samples)
    while place < samples:
        state = good if is_good else bad
        stop = min(samples, place + max(1, round(rng.exponential(state.dwell_seconds) / step_seconds)))
        noise = np.exp(spread * rng.standard_normal((3, stop - place)))
        rtt[place:stop], up[place:stop], down[place:stop] = (
            state.rtt_ms * noise[0],
            state.uplink_mbps * noise[1],
            state.downlink_mbps * noise[2],
        )
        place, is_good = stop, not is_good
    return LinkTrace(f"{family}-{seed}", family, step_seconds, rtt, up, down)


def with_outages(link: LinkTrace, seed: int, every_seconds: float = 20.0, mean_seconds: float = 2.0) -> LinkTrace:
    """A link that carries nothing for a while, now and again: both rates are 0 for exponential stays, between exponential times.

    A message that is sent meanwhile waits for the end. Those that are lost on the way are another matter: `synera_env.radio.Outages`.

    Args:
        link: that is cut off; its step is the shortest outage.
        seed: says when, not negative; the same seed, the same trace.
        every_seconds: mean time between outages.
        mean_seconds: mean length of one.

    Raises:
        SettingError: an argument that is out of its range.
        TraceError: nothing would be left of the link.
    """
    within("seed", seed, 0)
    within("every_seconds", every_seconds, 1e-3, 1e6)
    within("mean_seconds", mean_seconds, 1e-3, 1e6)
    rng, samples = np.random.default_rng([seed, 2]), len(link.rtt_ms)
    carries = np.ones(samples, np.bool_)
    down, place = rng.random() < mean_seconds / (every_seconds + mean_seconds), 0
    while place < samples:
        stay = max(1, round(rng.exponential(mean_seconds if down else every_seconds) / link.step_seconds))
        carries[place : place + stay] = not down
        place, down = place + stay, not down
    family = f"{link.family}-outages"
    rates = {name: getattr(link, name) * carries for name in ("uplink_mbps", "downlink_mbps")}
    return replace(link, name=f"{link.name}-outages-{seed}", family=family, **rates)
