"""What a device has learnt of its cloud, and when it therefore asks it, for how long, and when not.

What does not live here: the rules behind it (runtime/breaker.py, runtime/deadline.py), and the asking (remote.py).
"""

from __future__ import annotations

from runtime.breaker import UNAUTHENTICATED_SECONDS, Breaker
from runtime.deadline import CHECK_DEADLINE, Patience
from runtime.errors import (
    CloudBusyError,
    CloudError,
    CloudUnavailableError,
    LimitsChangedError,
    LinkDownError,
    SyneraError,
    UnauthenticatedError,
)
from runtime.leftovers import Leftovers
from runtime.synera.chunk import Lost


class CloudState:
    """What a device has learnt of its cloud; all its sessions with it share one."""

    def __init__(self, check_deadline: float = CHECK_DEADLINE) -> None:
        """Begin with nothing known; see :class:`runtime.deadline.Patience`."""
        self.breaker, self.patience, self.leftovers = Breaker(), Patience(check_deadline), Leftovers()


class Caution:
    """That of one answer: the cloud's breaker and patience and, over an emulated link, a breaker and a patience of its own."""

    def __init__(self, state: CloudState, link: Breaker, *, emulated: bool) -> None:
        shared = state.patience
        self.patience = Patience(shared.check_deadline) if emulated else shared
        self._breakers = (link, state.breaker)
        self._probing = False
        self._alone: LimitsChangedError | None = None

    def refused(self, now: float) -> Lost | None:
        """How a check is lost now without being sent, if it is."""
        if self._alone is not None:
            return Lost(self._alone)
        refusals = (breaker.refusal(now) for breaker in self._breakers)
        refusal = next((each for each in refusals if each is not None), None)
        return Lost(CloudUnavailableError(refusal)) if refusal is not None else None

    def refused_by_cloud(self, now: float) -> str | None:
        """Say why the cloud itself is left alone now, whatever the link does; None where it is not."""
        return self._breakers[1].refusal(now)

    def shut(self, now: float) -> bool:
        """Say whether a check would be lost now, and not even try the cloud."""
        return self._alone is not None or any(breaker.shut(now) for breaker in self._breakers)

    def claim(self, now: float) -> bool:
        """Take the one probe that is allowed while a check is refused, if it is."""
        link, cloud = self._breakers
        if self._alone is not None or not link.claim(now):
            return False
        if cloud.claim(now):
            return True
        link.withdraw()
        return False

    def probes(self, probing: bool) -> None:
        """What is sent from now on is the probe that was claimed, or is not."""
        self._probing = probing

    def withdraw(self) -> None:
        """The probe, if it was one, came to nothing."""
        if self._probing:
            self._probing = False
            for breaker in self._breakers:
                breaker.withdraw()

    def failed(self, now: float, error: CloudError) -> None:
        """The cloud was asked in vain, or the emulated link was down."""
        link, cloud = self._breakers
        (link if isinstance(error, LinkDownError) else cloud).failed(now, str(error), pause_seconds(error))
        self.withdraw()

    def answered(self) -> None:
        """The cloud opened a session."""
        if self._probing:
            self._probing = False
            for breaker in self._breakers:
                breaker.answered()

    def succeeded(self) -> None:
        """The cloud gave a verdict."""
        for breaker in self._breakers:
            breaker.succeeded()

    def go_alone(self, why: LimitsChangedError) -> None:
        """Ask the cloud for nothing any more: it is there, but not for answers that began like this one."""
        self.answered()
        self._alone = why


def pause_seconds(error: SyneraError) -> float:
    """For how long a cloud that answers so is to be left alone at least; 0 leaves that to the breaker."""
    if isinstance(error, CloudBusyError):
        return error.retry_after_seconds or 0.0
    return UNAUTHENTICATED_SECONDS if isinstance(error, UnauthenticatedError) else 0.0
