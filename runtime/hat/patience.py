"""How long a HAT device tries to reach its cloud: the same rules live and in replay.

What does not live here: who follows them (talk.py, synera_env/hat/middle.py).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from runtime.settings import within


@dataclass(frozen=True)
class Patience:
    """Times in seconds, 0.001..3600.

    Raises:
        SettingError: one is outside its range.
    """

    longest_seconds: float = 30.0
    """An upload is given so long, healing included; the cloud then counts as lost."""
    silent_seconds: float = 5.0
    """After so long without an answer the chunks are sent over another stream as well, twice as long the next time in a row."""
    open_seconds: float = 5.0
    """Of one try to open a session."""
    first_retry_seconds: float = 0.2
    """When what met an outage of the link is tried again: the least timeout of today's TCP, doubled each time (RFC 6298 (5.5))."""
    longest_retry_seconds: float = 3.2
    """It is doubled up to here."""

    def __post_init__(self) -> None:
        for each in fields(self):
            within(each.name, getattr(self, each.name), 0.001, 3600.0)

    def outage_retry_seconds(self, tries: int) -> float:
        """Return how long to wait before a message is tried again that met an outage for the n-th time, from 1."""
        return min(self.first_retry_seconds * 2.0 ** min(tries - 1, 64), self.longest_retry_seconds)

    def silence_seconds(self, replaced: int) -> float:
        """Return how long a stream may be silent, after so many in a row that were."""
        return self.silent_seconds * 2.0 ** min(replaced, 10)


PATIENCE = Patience()
