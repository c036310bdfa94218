from __future__ import annotations

import pytest

from runtime.errors import CloudUnavailableError
from runtime.link import LOST_AFTER_SECONDS, LinkEmulator


class Rising:
    """One-way times that tell when and how much was sent; down in its fifth second."""

    def reachable(self, at_seconds: float) -> bool:
        return not 4.0 <= at_seconds < 5.0

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

    link = LinkEmulator(Rising(), now=lambda: time[0], sleep=sleep)
    link.uplink(3)
    link.downlink(1)
    assert slept == [3.0, 3.5]
    time[0] = 104.5
    with pytest.raises(CloudUnavailableError, match="link is down"):
        link.uplink(1)
    assert slept[2:] == [LOST_AFTER_SECONDS]
    link.uplink(1)
    assert slept[3] == pytest.approx(4.5 + LOST_AFTER_SECONDS + 1)
