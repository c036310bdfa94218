from __future__ import annotations

import pytest

from runtime.errors import CloudUnavailableError
from runtime.link import LOST_AFTER_SECONDS, LinkEmulator


class Rising:
    """One-way times that tell when and how much was sent."""

    def reachable(self, at_seconds: float) -> bool:
        return True

    def uplink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        return at_seconds + size_bytes

    def downlink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        return at_seconds + size_bytes / 2


def test_messages_sleep_what_the_link_says_at_that_time() -> None:
    time = [100.0]
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time[0] += seconds

    link = LinkEmulator(Rising(), origin_seconds=7.0, now=lambda: time[0], sleep=sleep)
    link.uplink(4)
    link.downlink(4)
    assert slept == [11.0, 20.0]


class Down(Rising):
    """A link whose first two seconds are an outage."""

    def reachable(self, at_seconds: float) -> bool:
        return at_seconds >= 2.0


def test_what_is_sent_in_an_outage_is_lost_and_that_is_known_later() -> None:
    slept: list[float] = []
    now = [0.0]
    emulator = LinkEmulator(Down(), now=lambda: now[0], sleep=slept.append)
    with pytest.raises(CloudUnavailableError, match="the emulated link is down"):
        emulator.uplink(10)
    assert slept == [LOST_AFTER_SECONDS]
    now[0] = 2.0
    emulator.uplink(10)
    assert len(slept) == 2
