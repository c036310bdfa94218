"""Link traces: round trip and bandwidth over time, and how long a message takes on them.

What does not live here: the transfer formula (transfer.py), generated links (generators.py), files (store.py), recordings of
others (readers.py) and what fills them (filling.py), the emulation in a live run (runtime/link.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.settings import shown
from traces.errors import TraceError
from traces.links.transfer import bits_passed, one_way_seconds

SERIES = ("rtt_ms", "uplink_mbps", "downlink_mbps")
MOST_SAMPLES = 1_000_000
SHORTEST_STEP, LONGEST_STEP = 1e-3, 3600.0
"""Seconds of a step."""
LONGEST_RTT_MS = 6e5
SLOWEST_MBPS, FASTEST_MBPS = 1e-4, 1e6
"""Rates that are not an outage; link files keep four decimals."""
LONGEST_RULE = 300
"""Characters of the rule by which a series was filled."""


class _Direction(NamedTuple):
    bits_per_second: list[float]
    """[samples]"""
    passed: list[float]
    """[samples + 1]; see `bits_passed`."""


@dataclass(frozen=True)
class LinkTrace:
    """A link sampled at a fixed step; it repeats from its start when its end is reached.

    Raises:
        TraceError: a value that is out of the range stated beside it.
    """

    name: str
    family: str
    """What kind of link it is: the generator or the recording that it comes from. Splits divide a family by its seeds;
    the test may have families of its own."""
    step_seconds: float
    """1e-3 to 3600."""
    rtt_ms: NDArray[np.float64]
    """[samples], 0 to 6e5; at most 1e6 samples."""
    uplink_mbps: NDArray[np.float64]
    """[samples], 1e6 bit/s: 0 is an outage, else 1e-4 to 1e6; not 0 throughout."""
    downlink_mbps: NDArray[np.float64]
    """[samples], likewise."""
    filled: Mapping[str, str] = field(default_factory=dict)
    """Of each series that was not recorded, the rule by which it was made (filling.py); generated links fill nothing."""
    # Lists, as a single entry is read faster from a list than from an array.
    _half_rtt_seconds: list[float] = field(init=False, repr=False, compare=False)
    _uplink: _Direction = field(init=False, repr=False, compare=False)
    _downlink: _Direction = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for text in (self.name, self.family):
            if not isinstance(text, str) or not 1 <= len(text) <= 200:
                raise TraceError(f"a link's name and family must have 1 to 200 characters, not {shown(text)}")
        self._require_step()
        self._require_rules()
        for name in SERIES:
            object.__setattr__(self, name, self._series(name))
        lengths = {len(getattr(self, name)) for name in SERIES}
        if len(lengths) != 1:
            raise self._wrong(f"its three series have lengths {sorted(lengths)}; they must be equal")
        self._require_range("rtt_ms", 0.0, LONGEST_RTT_MS)
        for name in ("uplink_mbps", "downlink_mbps"):
            self._require_range(name, SLOWEST_MBPS, FASTEST_MBPS, or_zero=True)
            if not getattr(self, name).any():
                raise self._wrong(f"{name} is 0 throughout; a link must carry something in each direction")
        object.__setattr__(self, "_half_rtt_seconds", (self.rtt_ms / 2e3).tolist())
        for name, mbps in (("_uplink", self.uplink_mbps), ("_downlink", self.downlink_mbps)):
            rates = (mbps * 1e6).tolist()
            object.__setattr__(self, name, _Direction(rates, bits_passed(rates, self.step_seconds)))

    @property
    def digest(self) -> str:
        """SHA-256 of its series and step; its name and family say nothing of what a message takes."""
        series = b"".join(getattr(self, name).tobytes() for name in SERIES)
        return hashlib.sha256(series + repr(self.step_seconds).encode()).hexdigest()

    def _wrong(self, reason: str) -> TraceError:
        return TraceError(f"link trace {shown(self.name)}: {reason}")

    def _require_step(self) -> None:
        step = self.step_seconds
        number = isinstance(step, int | float) and not isinstance(step, bool)
        if not number or not SHORTEST_STEP <= step <= LONGEST_STEP:
            raise self._wrong(f"step_seconds={shown(step)} must be a number in {SHORTEST_STEP:g}..{LONGEST_STEP:g}")

    def _require_rules(self) -> None:
        rules = self.filled
        if not isinstance(rules, Mapping) or any(
            name not in SERIES or not isinstance(rule, str) or not 1 <= len(rule) <= LONGEST_RULE
            for name, rule in rules.items()
        ):
            raise self._wrong(
                f"filled={shown(rules)} must name series ({', '.join(SERIES)}), each with a rule of 1 to {LONGEST_RULE} characters"
            )
        object.__setattr__(self, "filled", dict(rules))

    def _series(self, name: str) -> NDArray[np.float64]:
        """Return a series as an array; its length is looked at before its values."""
        given = getattr(self, name)
        shape = np.shape(given) if isinstance(given, np.ndarray) else (len(given),) if isinstance(given, list | tuple) else ()
        if len(shape) != 1 or not 1 <= shape[0] <= MOST_SAMPLES:
            raise self._wrong(f"{name} has shape {list(shape)}; it must be a series of 1 to {MOST_SAMPLES} samples")
        try:
            array = np.asarray(given)
        except ValueError:  # lists in it, of several lengths
            array = np.empty((0, 0))
        if array.ndim != 1 or array.dtype.kind not in "fiu":
            raise self._wrong(f"{name} must be a series of numbers")
        return array.astype(np.float64, copy=False)

    def _require_range(self, name: str, low: float, high: float, or_zero: bool = False) -> None:
        series = getattr(self, name)
        inside = (series >= low) & (series <= high) | (or_zero & (series == 0))
        if not inside.all():
            place = int(np.argmin(inside))
            allowed = f"{'0 or ' if or_zero else ''}in {low:g}..{high:g}"
            raise self._wrong(f"{name}={float(series[place])!r} at sample {place} must be {allowed}")

    @property
    def seconds(self) -> float:
        """Length of the trace."""
        return len(self.rtt_ms) * self.step_seconds

    def uplink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        """One-way time of a message to the cloud that is sent `at_seconds` after the trace's start."""
        return self._one_way(self._uplink, at_seconds, size_bytes)

    def downlink_seconds(self, at_seconds: float, size_bytes: int) -> float:
        """One-way time of a message to the device."""
        return self._one_way(self._downlink, at_seconds, size_bytes)

    def _one_way(self, direction: _Direction, at_seconds: float, size_bytes: int) -> float:
        return one_way_seconds(at_seconds, size_bytes, self.step_seconds, self._half_rtt_seconds, *direction)

    def series(self) -> tuple[list[float], list[float], list[float], list[float], list[float]]:
        """What :func:`traces.links.transfer.one_way_seconds` reads: half round trips in seconds, then rates and bits passed of the
        uplink and of the downlink.
        """
        return (self._half_rtt_seconds, *self._uplink, *self._downlink)
