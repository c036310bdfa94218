"""The network between device and cloud: what a link must answer, and its live emulation by sleeping.

What does not live here: recorded or generated links (traces/) and message sizes (wire/sizes.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from runtime.errors import LinkDownError

LOST_AFTER_SECONDS = 0.7
"""How long a message that cannot get through keeps a device waiting: what the retries of a refused call take. Ours."""


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
    """Makes a fast connection feel like `link`: each message sleeps its one-way time before it goes on."""

    def __init__(
        self,
        link: Link,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Start the link.

        Args:
            link: the times to emulate.
            now: monotonic seconds.
            sleep: waits so many seconds.
        """
        self._link, self._now, self._sleep = link, now, sleep
        self._zero = now()

    def uplink(self, size_bytes: int) -> None:
        """Sleep as long as a message takes to the cloud.

        Raises:
            LinkDownError: it is lost in an outage, which is known after `LOST_AFTER_SECONDS`.
        """
        if not self._link.reachable(self._now() - self._zero):
            self._sleep(LOST_AFTER_SECONDS)
            raise LinkDownError("the emulated link is down, so the cloud could not be reached")
        self._sleep(self._link.uplink_seconds(self._now() - self._zero, size_bytes))

    def downlink(self, size_bytes: int) -> None:
        """Sleep as long as a message takes to the device."""
        self._sleep(self._link.downlink_seconds(self._now() - self._zero, size_bytes))
