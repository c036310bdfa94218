"""In what answers are given: a link that stands still, how busy the cloud is, and a preference; given or drawn.

What does not live here: what steps cost then (prices.py), and how it is shown to a controller (sight.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingError
from runtime.settings import above, shown, within
from synera_env.reward import SPREAD, TERMS, Preference
from traces.links.trace import SERIES, LinkTrace

_AHEAD_SECONDS = 2.0
"""An answer's checks are sent up to so long after what is seen of the link; ours."""
_MOST_SPREAD = 100.0


@dataclass(frozen=True)
class Ranges:
    """What scenarios are drawn from."""

    links: Sequence[LinkTrace]
    """Each answer has the state of one of them at some time."""
    preference: Preference | None = None
    """Of all answers; None draws each, as :meth:`synera_env.reward.Preference.sample` does."""
    load_spread: float = 1.0
    """The cloud's waits are up to so many times those of its profile, or divided by that, log-uniformly; 1..100."""

    def __post_init__(self) -> None:
        within("load_spread", self.load_spread, 1.0, _MOST_SPREAD)
        if not self.links:
            raise SettingError("links=[] must hold at least one link to draw from")


@dataclass(frozen=True)
class Scenario:
    """One in which all answers are given."""

    link: LinkTrace
    """One that stands still."""
    preference: Preference = Preference()  # noqa: RUF009 - frozen
    waits: float = 1.0
    """Times the waits of the cloud's profile."""

    def __post_init__(self) -> None:
        above("waits", self.waits, 0.0)
        moving = [name for name in SERIES if np.ptp(getattr(self.link, name)) > 0]
        if moving:
            raise SettingError(
                f"link {shown(self.link.name)} changes its {moving[0]}: the bound is exact only where a link stands still; "
                "give one of its states as a constant link"
            )


@dataclass(frozen=True, eq=False)
class Scenarios:
    """Those of so many answers; a link's state is [answers, 3]: round trip in seconds, uplink and downlink in bit/s."""

    link: NDArray[np.float64]
    seen: NDArray[np.float64]
    """What the device has measured of it; the same where it stands still."""
    waits: NDArray[np.float64]
    """[answers]: times the waits of the cloud's profile."""
    busy: NDArray[np.float64]
    """[answers]: 0..1, at which quantile of the cloud's waits the device's last check was served."""
    weights: NDArray[np.float64]
    """[answers, terms] of the preference."""

    def __len__(self) -> int:
        return len(self.link)

    def part(self, of: slice) -> Self:
        """Those of some of the answers."""
        return type(self)(self.link[of], self.seen[of], self.waits[of], self.busy[of], self.weights[of])

    @classmethod
    def constant(cls, scenario: Scenario, answers: int) -> Self:
        """Return the same for all answers."""
        here, weights = _states(scenario.link)[0], astuple(scenario.preference)
        tiled = np.tile(here, (answers, 1))
        return cls(tiled, tiled, np.full(answers, scenario.waits), np.full(answers, 0.5), np.tile(weights, (answers, 1)))

    @classmethod
    def draw(cls, ranges: Ranges, answers: int, rng: np.random.Generator) -> Self:
        """Draw those of answers, each its own.

        A link's state is one of all times at which it carries anything; what the device has seen of it is that of up to 2 s
        before, so that a link which changes is known as well as it is within an answer.
        """
        link, seen = np.empty((2, answers, 3))
        for answer, place in enumerate(rng.integers(len(ranges.links), size=answers)):
            states, step_seconds = _states(ranges.links[place]), ranges.links[place].step_seconds
            alive = np.flatnonzero(states.min(1) > 0)
            at = rng.integers(len(alive))
            before = np.searchsorted(alive, alive[at] - rng.uniform(0, _AHEAD_SECONDS) / step_seconds)
            link[answer], seen[answer] = states[alive[at]], states[alive[min(before, at)]]
        spread = SPREAD ** rng.uniform(-1, 1, (answers, len(TERMS)))
        spread[:, 0] = 1.0  # quality is the unit of account
        default = np.array(astuple(ranges.preference or Preference()))
        weights = default * (spread if ranges.preference is None else np.ones_like(spread))
        waits = ranges.load_spread ** rng.uniform(-1, 1, answers)
        return cls(link, seen, waits, rng.random(answers), weights)


def _states(link: LinkTrace) -> NDArray[np.float64]:
    """[samples, 3]; a round trip of 0 is no outage."""
    return np.stack([np.maximum(link.rtt_ms / 1e3, 1e-6), link.uplink_mbps * 1e6, link.downlink_mbps * 1e6], 1)
