"""Time as the session sees it: one interface, a simulated clock and two real ones.

What does not live here: what anything costs; a profile says so and the caller charges it.
"""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Seconds on one machine, from an arbitrary start."""

    def now(self) -> float:
        """Seconds."""
        ...

    def charge(self, seconds: float, since: float) -> None:
        """Work that began at `since` costs `seconds` by the device's profile; let time be at least `since + seconds`."""
        ...


class SimulatedClock:
    """Time that passes only when charged; the replay's clock."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Seconds."""
        return self._now

    def charge(self, seconds: float, since: float) -> None:
        """Advance to `since + seconds`, never back."""
        self._now = max(self._now, since + seconds)


class RealClock:
    """Monotonic time; charged work took what it took."""

    def now(self) -> float:
        """Seconds."""
        return time.monotonic()

    def charge(self, seconds: float, since: float) -> None:
        """Nothing: the work was done in real time."""


class PacedClock(RealClock):
    """Monotonic time on a machine faster than the profile: sleeps until the profile's time has passed (emulation)."""

    def charge(self, seconds: float, since: float) -> None:
        """Sleep until `since + seconds`."""
        remaining = since + seconds - time.monotonic()
        if remaining > 0:
            time.sleep(remaining)
