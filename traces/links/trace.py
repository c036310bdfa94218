"""Link traces: round trip and bandwidth over time, and how long a message takes on them.

What does not live here: the transfer formula (transfer.py), generated links (generators.py), files (store.py), the emulation
in a live run (runtime/link.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from traces.errors import TraceError
from traces.links.transfer import bits_passed, transfer_seconds


class _Direction(NamedTuple):
    bits_per_second: list[float]
    """[samples]"""
    passed: list[float]
    """[samples + 1]; see `bits_passed`."""


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
    # Lists, as a single entry is read faster from a list than from an array.
    _half_rtt_seconds: list[float] = field(init=False, repr=False, compare=False)
    _uplink: _Direction = field(init=False, repr=False, compare=False)
    _downlink: _Direction = field(init=False, repr=False, compare=False)

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
        object.__setattr__(self, "_half_rtt_seconds", (self.rtt_ms / 2e3).tolist())
        for name, mbps in (("_uplink", self.uplink_mbps), ("_downlink", self.downlink_mbps)):
            rates = (mbps * 1e6).tolist()
            object.__setattr__(self, name, _Direction(rates, bits_passed(rates, self.step_seconds)))

    @property
    def seconds(self) -> float:
        """Length of the trace."""
        return len(self.rtt_ms) * self.step_seconds

    def uplink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        """One-way time of a message to the cloud that is sent `at_seconds` after the trace's start."""
        return self._one_way(self._uplink, at_seconds, size_bytes)

    def downlink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        """One-way time of a message to the device."""
        return self._one_way(self._downlink, at_seconds, size_bytes)

    def _one_way(self, direction: _Direction, at_seconds: float, size_bytes: int) -> float:
        """Half the round trip at sending time, plus the time that the message's bits need at the rates from then on."""
        rates, passed = direction
        half_rtt = self._half_rtt_seconds[int(at_seconds / self.step_seconds) % len(rates)]
        return half_rtt + transfer_seconds(at_seconds, size_bytes * 8.0, self.step_seconds, rates, passed)
