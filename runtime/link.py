"""The network between device and cloud: what a link must answer, and its live emulation.

What does not live here: recorded or generated links (traces/), message sizes (wire/sizes.py), and the waiting (courier.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Link(Protocol):
    """Whether messages get through and their one-way times, as a function of when they are sent."""

    def reachable(self, at_seconds: float) -> bool:
        """False in an outage: what is sent `at_seconds` after the link's start never arrives."""
        ...

    def uplink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        """Time from device to cloud of a message sent `at_seconds` after the link's start."""
        ...

    def downlink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        """Time from cloud to device of a message sent `at_seconds` after the link's start."""
        ...


class LinkEmulator:
    """Tells how long a link takes for each message, from now on; whoever sends it waits."""

    def __init__(self, link: Link, *, now: Callable[[], float] = time.monotonic) -> None:
        """Start the link.

        Args:
            link: the times to emulate.
            now: monotonic seconds.
        """
        self._link, self._now = link, now
        self._zero = now()

    def uplink(self, size_bytes: int) -> float | None:
        """Seconds that a message sent now takes to the cloud; None: it meets an outage and never arrives."""
        at = self._now() - self._zero
        return self._link.uplink_seconds(at, size_bytes) if self._link.reachable(at) else None

    def downlink(self, size_bytes: int) -> float:
        """Seconds that a message sent now takes to the device."""
        return self._link.downlink_seconds(self._now() - self._zero, size_bytes)
