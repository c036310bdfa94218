"""Link traces: round trip and bandwidth over time, how long a message takes on them, and two generators.

What does not live here: the emulation of a link in a live run (runtime/link.py) and readers of public trace sets.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from traces.errors import TraceError


@dataclass(frozen=True)
class LinkTrace:
    """A link sampled at a fixed step; it repeats from its start when its end is reached."""

    name: str
    family: str
    """What the trace comes from; splits are by family."""
    step_seconds: float
    rtt_ms: NDArray[np.float64]
    """[samples]"""
    uplink_mbps: NDArray[np.float64]
    """[samples], 1e6 bit/s; 0 is an outage."""
    downlink_mbps: NDArray[np.float64]

    def __post_init__(self) -> None:
        lengths = {len(self.rtt_ms), len(self.uplink_mbps), len(self.downlink_mbps)}
        if len(lengths) != 1 or 0 in lengths:
            raise TraceError(
                f"link trace {self.name!r}: its three series have lengths {sorted(lengths)}; they must be equal and not empty"
            )
        if self.step_seconds <= 0:
            raise TraceError(f"link trace {self.name!r}: step_seconds={self.step_seconds} must be positive")
        for name in ("rtt_ms", "uplink_mbps", "downlink_mbps"):
            series = getattr(self, name)
            if not np.isfinite(series).all() or (series < 0).any():
                raise TraceError(f"link trace {self.name!r}: {name} has values that are negative or not finite")
        if not self.uplink_mbps.any() or not self.downlink_mbps.any():
            raise TraceError(f"link trace {self.name!r} never carries anything in one direction")

    @property
    def seconds(self) -> float:
        """Length of the trace."""
        return len(self.rtt_ms) * self.step_seconds

    def uplink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        """One-way time of a message to the cloud that is sent `at_seconds` after the trace's start."""
        return self._one_way(self.uplink_mbps, at_seconds, size_bytes)

    def downlink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        """One-way time of a message to the device."""
        return self._one_way(self.downlink_mbps, at_seconds, size_bytes)

    def _one_way(self, rate_mbps: NDArray[np.float64], at_seconds: float, size_bytes: int) -> float:
        """Half the round trip at sending time, plus the time the message's bits need at the rates from then on."""
        index = int(at_seconds / self.step_seconds)
        end_of_step = (index + 1) * self.step_seconds
        samples, left, now = len(rate_mbps), size_bytes * 8.0, at_seconds
        while True:
            rate = float(rate_mbps[index % samples]) * 1e6
            room = rate * (end_of_step - now)
            if rate > 0 and left <= room:
                now += left / rate
                break
            left, now, index = left - room, end_of_step, index + 1
            end_of_step = (index + 1) * self.step_seconds
        return float(self.rtt_ms[int(at_seconds / self.step_seconds) % samples]) / 2e3 + now - at_seconds


def constant_link(rtt_ms: float = 60.0, uplink_mbps: float = 10.0, downlink_mbps: float = 30.0) -> LinkTrace:
    """A link that never changes."""
    one = np.ones(1)
    return LinkTrace(f"constant-{rtt_ms:g}ms", "constant", 1.0, rtt_ms * one, uplink_mbps * one, downlink_mbps * one)


@dataclass(frozen=True)
class LinkState:
    """One state of the Markov generator."""

    rtt_ms: float
    """Median round trip; samples spread log-normally around it."""
    uplink_mbps: float
    downlink_mbps: float
    dwell_seconds: float
    """Mean stay."""


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
        seed: makes the trace; the same seed, the same trace.
        seconds: its length.
        good: the state it starts in, three times out of four.
        bad: the other.
        step_seconds: sampling step.
        spread: standard deviation of the logarithm of the round trip and rates around their medians.
        family: names the kind of link that the states describe.
    """
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


def save_links(links: list[LinkTrace], path: Path) -> None:
    """Write traces as one JSON file, whole or not at all."""
    rows = [
        {
            "name": link.name,
            "family": link.family,
            "step_seconds": link.step_seconds,
            **{name: np.round(getattr(link, name), 4).tolist() for name in ("rtt_ms", "uplink_mbps", "downlink_mbps")},
        }
        for link in links
    ]
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"format": "synera-links", "version": 1, "links": rows}))
    os.replace(part, path)


def load_links(path: str | Path) -> list[LinkTrace]:
    """Read traces written by :func:`save_links`.

    Raises:
        TraceError: the file is missing, damaged, or of another format.
    """
    try:
        stated = json.loads(Path(path).read_text())
        if (stated.get("format"), stated.get("version")) != ("synera-links", 1):
            raise TraceError("it is not a link file of version 1")
        return [
            LinkTrace(
                row["name"],
                row["family"],
                float(row["step_seconds"]),
                *(np.array(row[name], dtype=float) for name in ("rtt_ms", "uplink_mbps", "downlink_mbps")),
            )
            for row in stated["links"]
        ]
    except FileNotFoundError:
        raise TraceError(f"no link file at {path}") from None
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError, OSError) as error:
        raise TraceError(f"{path} is not a link file: {error}") from None
