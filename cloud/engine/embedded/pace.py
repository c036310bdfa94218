"""Emulation of another machine's durations: what a profile must say, and what each request is drawn from it.

What does not live here: the waiting and the sleeping (batcher.py), the numbers (a cloud profile, which is handed in).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@runtime_checkable
class Pace(Protocol):
    """How long another machine would take; the part of a cloud profile that emulation needs."""

    def forward_seconds(self, tokens: int) -> float:
        """Duration of a forward over so many tokens."""
        ...

    def queue_seconds(self, uniform: float) -> float:
        """Wait of a request before its forward, at a quantile in 0..1; finite, not negative."""
        ...

    def background_load(self, uniform: float) -> int:
        """Requests of others beside it, at a quantile in 0..1."""
        ...


@dataclass(frozen=True, slots=True)
class Arrival:
    """What a request meets when it arrives."""

    wait_seconds: float = 0.0
    """Its forward does not start earlier."""
    load: int = 0
    """Requests of others, which nobody sends here."""


class Arrivals:
    """Draws what each request meets: one uniform a request, in order of arrival."""

    def __init__(self, pace: Pace | None, seed: int) -> None:
        """Begin.

        Args:
            pace: the machine to emulate; None is this one, where nothing is drawn and nobody waits for it.
            seed: of the generator, which is this object's own.
        """
        self._pace, self._generator = pace, random.Random(seed)

    def draw(self) -> Arrival:
        """Return what the next request meets."""
        if self._pace is None:
            return Arrival()
        uniform = self._generator.random()
        return Arrival(self._pace.queue_seconds(uniform), self._pace.background_load(uniform))
