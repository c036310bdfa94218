"""How long a device waits for the cloud, from what it has measured; one rule, live and in replay.

What does not live here: what becomes of a check that took longer (synera/verifier.py, the replay), and for how long the cloud is then
left alone (breaker.py).
"""

from __future__ import annotations

import math
import threading

from runtime.settings import within

CHECK_DEADLINE = 2.0
"""Default factor: what takes twice as long as it should at most is abandoned."""
LEAST_SECONDS = 1.0
"""No wait is shorter: RFC 6298 (2.4); it is also what the retries of a refused call need (0.1 + 0.2 + 0.4 s)."""
LONGEST_OPEN_SECONDS = 5.0
LONGEST_CHECK_SECONDS = 30.0
_UNKNOWN_SECONDS = 0.5  # of the network and of the cloud each, before the first measurement: 1 s in all, RFC 6298 (2.1)
_GAIN, _DEVIATION_GAIN, _DEVIATIONS = 1 / 8, 1 / 4, 4.0  # RFC 6298 (2.3)


def check_factor(check_deadline: float) -> None:
    """Do nothing for a factor that waits at least as long as a check should take at most.

    Raises:
        SettingError: it is another.
    """
    within("check_deadline", check_deadline, 1.0, 1000.0)


def repeat_at(sent: float, deadline: float) -> float:
    """When a request that is sent at `sent` is sent a second time: half of the time that it was given has passed."""
    return sent + (deadline - sent) / 2


def usual_after(mean: float, deviation: float, seconds: float) -> tuple[float, float]:
    """Return the smoothed mean and mean deviation of what something takes, after it took so long once more (Jacobson and
    Karels; RFC 6298); a mean below 0 is one of nothing yet.
    """
    if mean < 0.0:
        return seconds, seconds / 2
    return mean + _GAIN * (seconds - mean), deviation + _DEVIATION_GAIN * (abs(mean - seconds) - deviation)


def usual_most(mean: float, deviation: float) -> float:
    """Return what something should take at most: the mean plus four mean deviations."""
    return _UNKNOWN_SECONDS if mean < 0.0 else mean + _DEVIATIONS * deviation


def open_wait(check_deadline: float, network_most: float, late: int) -> float:
    """Return how long to wait for an Open, of those in a row that came too late so many; see :class:`Patience`."""
    return min(_wait(check_deadline, network_most, late), LONGEST_OPEN_SECONDS)


def check_wait(
    check_deadline: float, network_most: float, work_most: float, token_seconds: float, tokens: int, late: int
) -> float:
    """Return how long to wait for a check of so many tokens; `token_seconds` is the best rate seen, infinity before one is."""
    reading = tokens * token_seconds if token_seconds < math.inf else 0.0
    return min(_wait(check_deadline, network_most + work_most + reading, late), LONGEST_CHECK_SECONDS)


def _wait(check_deadline: float, usual_seconds: float, late: int) -> float:
    return max(LEAST_SECONDS, check_deadline * usual_seconds) * 2.0 ** min(late, 10)


class _Usual:
    """What something should take at most."""

    def __init__(self) -> None:
        self._mean, self._deviation = -1.0, 0.0

    def saw(self, seconds: float) -> None:
        self._mean, self._deviation = usual_after(self._mean, self._deviation, seconds)

    @property
    def most(self) -> float:
        return usual_most(self._mean, self._deviation)


class Patience:
    """How long to wait for an Open and for a check, learnt from those that were answered. Thread-safe.

    An Open should take a round trip at most; a check a round trip, the usual queue and compute time, and, as the cloud may have
    to read all of the history again, the time of so many tokens at the best rate seen. The wait is `check_deadline` times that, at
    least `LEAST_SECONDS`; it doubles with each one in a row that came too late (RFC 6298 (5.5)), so that a cloud that became
    slower than ever is heard in the end. The sizes of messages are left out: a whole history has a few kilobytes.
    """

    def __init__(self, check_deadline: float = CHECK_DEADLINE) -> None:
        """Begin with nothing known.

        Raises:
            SettingError: `check_deadline` is outside 1..1000.
        """
        check_factor(check_deadline)
        self.check_deadline = check_deadline
        self._lock = threading.Lock()
        self._network, self._work = _Usual(), _Usual()
        self._token_seconds = math.inf
        self._late_opens = self._late_checks = 0

    def open_seconds(self) -> float:
        """How long to wait for an Open."""
        with self._lock:
            return open_wait(self.check_deadline, self._network.most, self._late_opens)

    def check_seconds(self, tokens: int) -> float:
        """How long to wait for a check, healing included; `tokens` are those of the history and of the draft."""
        with self._lock:
            most = self._network.most, self._work.most
            return check_wait(self.check_deadline, *most, self._token_seconds, tokens, self._late_checks)

    def opened(self, seconds: float) -> None:
        """An Open was answered after so long."""
        with self._lock:
            self._late_opens = 0
            self._network.saw(seconds)

    def checked(self, network_seconds: float | None, queue_seconds: float, compute_seconds: float, tokens: int) -> None:
        """A check was answered; `network_seconds` is None where a repeat was, as its round trip is not known then (Karn)."""
        with self._lock:
            self._late_checks = 0
            if network_seconds is not None:
                self._network.saw(network_seconds)
            self._work.saw(queue_seconds + compute_seconds)
            if tokens > 0:
                self._token_seconds = min(self._token_seconds, compute_seconds / tokens)

    def open_was_late(self) -> None:
        """No answer to an Open came in time."""
        with self._lock:
            self._late_opens += 1

    def check_was_late(self) -> None:
        """No answer to a check came in time."""
        with self._lock:
            self._late_checks += 1
