"""How long a device leaves a cloud alone that was unavailable; the same rule live and in replay.

What does not live here: what counts as unavailable (verifier.py, the replay) and the retries within a call (runtime/client.py).
"""

from __future__ import annotations

import threading

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 8.0


class Backoff:
    """After each failure in a row the cloud is left alone for 0.5 s, then 1, 2, 4 and 8 s. Thread-safe.

    It outlives an answer: who opens session after session, or several at a time, shares one among them. What fails while the
    cloud is already left alone was asked before that, and counts as the same failure.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._until = 0.0
        self._why: str | None = None

    def failed(self, now: float, why: str) -> None:
        """The cloud was asked in vain; `now` is when that was known, in seconds of the caller's clock."""
        with self._lock:
            if self._why is not None and now < self._until:
                return
            self._seconds = min(max(FIRST_SECONDS, 2 * self._seconds), LONGEST_SECONDS)
            self._until, self._why = now + self._seconds, why

    def succeeded(self) -> None:
        """The cloud gave a verdict."""
        with self._lock:
            self._seconds, self._why = 0.0, None

    def refusal(self, now: float) -> str | None:
        """Say why the cloud is not even asked now, if it is not."""
        with self._lock:
            remaining = self._until - now
            return f"{self._why} (next try in {remaining:.1f} s)" if self._why is not None and remaining > 0 else None
