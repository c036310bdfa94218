"""Machines to emulate, for tests."""

from __future__ import annotations


class NoWait:
    """A pace at which nobody waits and nobody else is there."""

    def forward_seconds(self, tokens: int) -> float:
        return 0.0

    def queue_seconds(self, uniform: float) -> float:
        return 0.0

    def background_load(self, uniform: float) -> int:
        return 0


class FakeTime:
    """Seconds that pass when a test says so, and in `sleep`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds
