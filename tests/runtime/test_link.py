from __future__ import annotations

from runtime.link import LinkEmulator


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
