"""Link traces: round trip and bandwidth over time, and how long a message takes on them.

What does not live here: generated links (generators.py), files (store.py), the emulation in a live run (runtime/link.py).
"""

from __future__ import annotations

from dataclasses import dataclass

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
