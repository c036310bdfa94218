"""The network of one answer: a link trace from some time on, and the times in which nothing gets through.

What does not live here: the trace (traces/links/), and what a check that gets lost does to the answer (runtime/).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from runtime.settings import above, within
from synera_env import chance
from traces.links.generators import breaking_link, constant_link
from traces.links.trace import LinkTrace

Windows = tuple[tuple[float, float], ...]
"""(start, stop) of each time in which nothing gets through, in seconds from an answer's start; starts rise."""
HORIZON_SECONDS = 120.0
"""How far from an answer's start its outages are drawn; no answer to be trained on takes longer."""
_BLIP_SECONDS = 0.1  # over by the time that what it swallowed is sent again


@dataclass(frozen=True)
class Outages:
    """How often a device is cut off: long gaps that silence the cloud for a while, and blips that cost a request its first copy.

    Gaps and stays are exponential, which is ours; the defaults leave about one check in thirty-five without an answer (2.8 % of
    9,930 at always-offload on the bundled training links; none without outages).
    """

    every_seconds: float = 60.0
    """Mean time from the end of an outage to the next; infinity for none."""
    mean_seconds: float = 2.0
    """Mean length of an outage; 0 for none."""
    loss_rate: float = 0.01
    """Share of all times, outages aside, at which a message that is sent gets lost alone."""

    def __post_init__(self) -> None:
        if self.every_seconds != math.inf:
            above("every_seconds", self.every_seconds, 0.0)
        within("mean_seconds", self.mean_seconds, 0.0)
        within("loss_rate", self.loss_rate, 0.0, 0.5)

    @classmethod
    def never(cls) -> Outages:
        """Return none at all."""
        return cls(mean_seconds=0.0, loss_rate=0.0)

    def draw(self, seed: int, horizon_seconds: float = HORIZON_SECONDS) -> Windows:
        """Draw those of one answer, outages and blips; stationary, so that an answer may start inside one.

        Args:
            seed: of the answer, 0..2^64 - 1.
            horizon_seconds: until when; nothing starts later.
        """
        windows = _stays(seed, chance.OUTAGE, self.every_seconds, self.mean_seconds, horizon_seconds)
        windows += _stays(seed, chance.BLIP, *self.blips, horizon_seconds)
        return tuple(sorted(windows))

    @property
    def blips(self) -> tuple[float, float]:
        """Mean time between blips, infinity for none, and their mean length."""
        between = _BLIP_SECONDS * (1 - self.loss_rate) / self.loss_rate if self.loss_rate else math.inf
        return between, _BLIP_SECONDS


def _stays(seed: int, purpose: int, between: float, mean: float, horizon: float) -> list[tuple[float, float]]:
    """The stays of a process that alternates for ever; exponential times forget what came before 0."""
    stays: list[tuple[float, float]] = []
    if mean <= 0.0 or between == math.inf:
        return stays
    drawn = chance.uniforms(seed, purpose)
    at, down = 0.0, starts_down(next(drawn), between, mean)
    while at < horizon:
        length = chance.exponential(next(drawn), mean if down else between)
        if down:
            stays.append((at, at + length))
        at, down = at + length, not down
    return stays


def starts_down(uniform: float, between: float, mean: float) -> bool:
    """Whether an answer starts within a stay: as likely as any time does."""
    return uniform < mean / (between + mean)


@dataclass(frozen=True)
class Radio:
    """A link trace and where in it an answer starts; implements :class:`runtime.link.Link`."""

    trace: LinkTrace
    offset_seconds: float = 0.0
    outages: Windows = ()

    def reachable(self, at_seconds: float) -> bool:
        """See :class:`runtime.link.Link`; `at_seconds` counts from the answer's start."""
        for start, stop in self.outages:
            if at_seconds < start:
                return True
            if at_seconds < stop:
                return False
        return True

    def uplink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        """See `LinkTrace`; `at_seconds` counts from the answer's start."""
        return self.trace.uplink_seconds(self.offset_seconds + at_seconds, size_bytes)

    def downlink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        """See `LinkTrace`; `at_seconds` counts from the answer's start."""
        return self.trace.downlink_seconds(self.offset_seconds + at_seconds, size_bytes)


SOUND, BROKEN = Radio(constant_link(40.0, 20.0, 20.0)), Radio(constant_link(600.0, 1.0, 1.0))
"""A network before it breaks and afterwards; ours. It stays fast enough for checks to be waited for (`runtime.deadline`): whether they
are still worth it is then the controller's to notice, while a cloud that is silent is left alone by the runtime, whoever decides."""


def breaking(at_seconds: float) -> Radio:
    """Return a network that is :data:`SOUND` until so many seconds after an answer's start, and :data:`BROKEN` from then on.

    Raises:
        SettingError: the time is outside 1e-3..3600.
    """
    return Radio(breaking_link(at_seconds, SOUND.trace, BROKEN.trace))
