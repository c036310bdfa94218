"""What a device and the thread that talks to its cloud share of one answer: counts, replies, and why there will be none.

What does not live here: the talk (talk.py) and what the device does meanwhile (session.py).
"""

from __future__ import annotations

import threading

from runtime.errors import CloudError
from runtime.hat.values import Lost, Reply


class Tray:
    """Of one answer; an answer before it has another, so that nothing of it gets in here. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._replies: list[Reply] = []
        self._unanswered = self._unsent = 0
        self._lost: Lost | None = None
        self.probe_seconds: float | None = None
        """Round trip of the first Open."""
        self.sessions = 0
        """That were opened; each but the first took the place of one that was lost."""

    # ------------------------------------------------------------ the device's side

    def handed(self) -> None:
        """Another upload is to be sent and answered."""
        with self._changed:
            self._unanswered += 1
            self._unsent += 1

    @property
    def free(self) -> bool:
        """Whether all uploads have left the radio, or none will any more."""
        return self._unsent == 0 or self._lost is not None

    @property
    def ready(self) -> bool:
        """Whether all uploads are answered, or none will be any more."""
        return self._unanswered == 0 or self._lost is not None

    def wait_free(self) -> None:
        """Wait until it is."""
        with self._changed:
            self._changed.wait_for(lambda: self.free)

    def wait_ready(self) -> None:
        """Wait until it is."""
        with self._changed:
            self._changed.wait_for(lambda: self.ready)

    def take(self) -> list[Reply]:
        """Return what has come since this was last asked."""
        with self._changed:
            replies, self._replies = self._replies, []
        return replies

    @property
    def lost(self) -> Lost | None:
        """Why an upload has no answer, and gets none; None also where all were answered before the cloud was lost."""
        with self._changed:
            return self._lost if self._unanswered else None

    # ------------------------------------------------------------ the thread's side

    def opened(self, seconds: float) -> None:
        """Another session was opened, in so long."""
        self.sessions += 1
        if self.probe_seconds is None:
            self.probe_seconds = seconds

    def left(self) -> None:
        """The last byte of another upload has left the radio."""
        with self._changed:
            self._unsent -= 1
            self._changed.notify_all()

    def replied(self, reply: Reply) -> None:
        """Another upload, the next in order, is answered."""
        with self._changed:
            self._replies.append(reply)
            self._unanswered -= 1
            self._changed.notify_all()

    def lose(self, error: CloudError) -> None:
        """There will be no more answers; the first reason stands."""
        with self._changed:
            self._lost = self._lost or Lost(error)
            self._changed.notify_all()
