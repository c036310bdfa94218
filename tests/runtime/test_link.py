from __future__ import annotations

from runtime.link import LinkEmulator


class Rising:
    """One-way times that tell when and how much was sent; down in its fifth second."""

    def reachable(self, at_seconds: float) -> bool:
        return not 4.0 <= at_seconds < 5.0

    def uplink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        return at_seconds + size_bytes

    def downlink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        return at_seconds + size_bytes / 2


def test_messages_take_what_the_link_says_at_that_time_and_in_an_outage_for_ever() -> None:
    time = [100.0]
    link = LinkEmulator(Rising(), now=lambda: time[0])
    assert link.uplink(3) == 3.0
    time[0] = 103.0
    assert link.downlink(1) == 3.5
    time[0] = 104.5
    assert link.uplink(1) is None
    assert link.downlink(1) == 5.0  # what the cloud says is not held up
    time[0] = 105.0
    assert link.uplink(1) == 6.0
