"""When a device leaves a cloud alone that failed it, and how it finds out that it is back; the same rule live and in replay.

What does not live here: what counts as a failure (synera/verifier.py, the replay), how long an answer is waited for (deadline.py).
"""

from __future__ import annotations

import threading

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 8.0
UNAUTHENTICATED_SECONDS = 60.0
"""For how long a cloud is left alone that does not take this device: somebody has to change something first."""


def left_alone_for(before: float) -> float:
    """Return for how long a failure has the cloud left alone, the one in a row before it having done so for `before`, or 0."""
    return min(max(FIRST_SECONDS, 2 * before), LONGEST_SECONDS)


class Breaker:
    """A circuit breaker. Thread-safe; it outlives an answer: all sessions of a device with one cloud share one.

    Closed: the cloud is asked. Each failure opens it: the cloud is left alone for 0.5 s, after further failures in a row for
    1, 2, 4 and 8 s. Half-open, once that has passed: one probe is allowed, to whoever claims it first; all others still leave
    the cloud alone. A probe that is answered closes it, one that fails opens it again. Only a verdict ends the row of failures.
    What fails while the cloud is already left alone was asked before that, and counts as the same failure. A cloud that says when
    to try again is left alone for at least that long; its word changes nothing in the row.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._until = 0.0
        self._why: str | None = None  # None while closed
        self._probed = False

    def refusal(self, now: float) -> str | None:
        """Say why the cloud is not waited for now; None while closed. `now` is in seconds of the caller's clock, as all here."""
        with self._lock:
            if self._why is None:
                return None
            left = self._until - now
            return f"{self._why} ({f'next try in {left:.1f} s' if left > 0 else 'it is being tried again'})"

    def shut(self, now: float) -> bool:
        """Say whether nothing comes of asking now, not even a probe."""
        with self._lock:
            return self._why is not None and (now < self._until or self._probed)

    def claim(self, now: float) -> bool:
        """Take the one probe that is allowed half-open; True also while closed, where nobody needs to."""
        with self._lock:
            if self._why is None:
                return True
            if now < self._until or self._probed:
                return False
            self._probed = True
            return True

    def withdraw(self) -> None:
        """The probe that was claimed came to nothing; another may be."""
        with self._lock:
            self._probed = False

    def failed(self, now: float, why: str, at_least_seconds: float = 0.0) -> None:
        """The cloud was asked in vain; `now` is when that was known, `at_least_seconds` for how long it wants to be left alone."""
        with self._lock:
            self._probed = False
            if self._why is not None and now < self._until:
                if now + at_least_seconds > self._until:
                    self._until, self._why = now + at_least_seconds, why
                return
            self._seconds = left_alone_for(self._seconds)
            self._until, self._why = now + max(self._seconds, at_least_seconds), why

    def answered(self) -> None:
        """The cloud answered a probe."""
        with self._lock:
            self._why, self._probed = None, False

    def succeeded(self) -> None:
        """The cloud gave a verdict."""
        with self._lock:
            self._seconds, self._why, self._probed = 0.0, None, False
