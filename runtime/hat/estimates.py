"""What a device makes of the answers that come back: its link's rate, the cloud's waits and speed, its own speed. HAT's moving averages.

The same live and in replay. What does not live here: the cloud's own fit (cloud/monitor.py), and what is done with the figures (rules.py,
agents/).
"""

from __future__ import annotations

from runtime.hat.values import Estimates, Reply

HISTORY_WEIGHT = 0.8
"""Of what was known before, in each moving average: HAT's."""
_LEAST_BYTES = 1024  # of an upload that tells the link's rate; ours
_LEAST_SECONDS = 1e-4  # of its transfer: less is within what clocks and threads add


class Measured:
    """Figures of one answer, from its beginning on."""

    def __init__(self) -> None:
        self._rtt: float | None = None
        self._rate: float | None = None
        self._queue: float | None = None
        self._away: float | None = None
        self._draft: float | None = None
        self._forward = self._token = 0.0
        self._load = 0

    @property
    def estimates(self) -> Estimates:
        """What is known by now."""
        return Estimates(
            self._rtt, self._rate, self._queue or 0.0, self._forward, self._token, self._away, self._draft, self._load
        )

    def probed(self, seconds: float) -> None:
        """The session in the cloud was opened after a round trip of so long."""
        self._rtt = seconds if self._rtt is None else min(self._rtt, seconds)

    def replied(self, reply: Reply) -> None:
        """An upload was answered.

        Its bytes over what it took beyond the shortest exchange so far tell the link's rate, which is ours; a small message, or one
        that took no longer, tells nothing of it.
        """
        shortest = reply.network_seconds if self._rtt is None else self._rtt
        transfer = reply.network_seconds - shortest
        if reply.uplink_bytes >= _LEAST_BYTES and transfer >= _LEAST_SECONDS:
            self._rate = _averaged(self._rate, reply.uplink_bytes / transfer)
        self._rtt = min(shortest, reply.network_seconds)
        self._queue = _averaged(self._queue, reply.queue_seconds)
        self._forward, self._token, self._load = reply.forward_seconds, reply.token_seconds, reply.load

    def was_away(self, seconds: float) -> None:
        """A draft was away for so long."""
        self._away = _averaged(self._away, seconds)

    def drafted(self, seconds: float, steps: int) -> None:
        """So many steps of the draft model took so long."""
        if steps:
            self._draft = _averaged(self._draft, seconds / steps)


def _averaged(average: float | None, value: float) -> float:
    return value if average is None else HISTORY_WEIGHT * average + (1 - HISTORY_WEIGHT) * value
