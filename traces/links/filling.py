"""What a recording lacks, filled: the one place of the rules, all constants or shares of what was recorded, each with its source.

What a rule made is not evidence: a filled trace says which of its series are, and by which rule (`LinkTrace.filled`).

What does not live here: resampling of what was recorded (resampling.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.settings import within
from traces.errors import TraceError
from traces.links.resampling import rates
from traces.links.source import Access, Recording
from traces.links.trace import FASTEST_MBPS, LONGEST_RTT_MS, SERIES, SLOWEST_MBPS, LinkTrace


class _Figure(NamedTuple):
    value: float
    source: str


_SPEEDTEST_5G = "worldwide 5G median of Speedtest, Q3 2021: 166.13 down, 21.08 up"
_SPEEDTEST_US = "US mobile median of Speedtest, Q3 2022: 68.34 down, 8.56 up"
_RTT_MS: dict[Access, _Figure] = {
    "3g": _Figure(200.0, "WebPageTest's 3G; active 3G has 100 to 500 (High Performance Browser Networking, table 7-2)"),
    "lte": _Figure(72.5, "between the medians of two US carriers, 70 and 75, with the radio active (SIGCOMM21-5G artifact)"),
    "5g": _Figure(66.5, "median of four US 5G networks, 58 to 89, with the radio active (SIGCOMM21-5G artifact)"),
    "fixed": _Figure(26.0, "mean of US cable lines (FCC, Measuring Broadband America, July 2012)"),
    "unknown": _Figure(80.0, "what Pensieve's simulator takes"),
}
_UPLINK_SHARE: dict[Access, _Figure] = {
    "3g": _Figure(0.47, "mean rates of Mahimahi's TMobile-UMTS-driving"),
    "lte": _Figure(0.42, "median of Mahimahi's three LTE recordings of both directions, 0.16, 0.42 and 1.18"),
    "5g": _Figure(0.127, _SPEEDTEST_5G),
    "fixed": _Figure(0.125, _SPEEDTEST_US),
    "unknown": _Figure(0.125, _SPEEDTEST_US),
}
_DOWNLINK_MBPS: dict[Access, _Figure] = {
    "5g": _Figure(166.0, _SPEEDTEST_5G),
    **dict.fromkeys(("3g", "lte", "fixed", "unknown"), _Figure(68.3, _SPEEDTEST_US)),
}


@dataclass(frozen=True)
class Filling:
    """Your own figures for what recorded links lack; None takes the published one for how the device was connected."""

    rtt_ms: float | None = None
    """Round trip in ms, where none was recorded."""
    uplink_share: float | None = None
    """Uplink over downlink, where one of them was recorded."""
    downlink_mbps: float | None = None
    """Downlink in Mbit/s, where no rate was recorded."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("rtt_ms", 0.0, LONGEST_RTT_MS),
            ("uplink_share", 1e-3, 1e3),
            ("downlink_mbps", SLOWEST_MBPS, FASTEST_MBPS),
        ):
            if (value := getattr(self, name)) is not None:
                within(name, value, low, high)

    def fill(self, recorded: Recording) -> LinkTrace:
        """Make the trace of a recording.

        Constant round trips; an uplink that is a share of the downlink, or the other way round; and where neither was
        recorded, a constant downlink.

        Raises:
            TraceError: nothing was recorded, or what was is out of the range that :class:`LinkTrace` states.
        """
        known = {name: series for name in SERIES if (series := getattr(recorded, name)) is not None}
        if not known:
            raise TraceError(f"{recorded.name}: nothing was recorded")
        steps, filled = len(next(iter(known.values()))), dict[str, str]()

        def take(name: str, series: NDArray[np.float64], rule: str) -> None:
            known[name], filled[name] = series, rule

        if "rtt_ms" not in known:
            rtt = self._figure(self.rtt_ms, _RTT_MS, recorded.access)
            take("rtt_ms", np.full(steps, rtt.value), f"{rtt.value:g} ms throughout: {rtt.source}")
        if not {"uplink_mbps", "downlink_mbps"} & set(known):
            down = self._figure(self.downlink_mbps, _DOWNLINK_MBPS, recorded.access)
            take("downlink_mbps", np.full(steps, down.value), f"{down.value:g} Mbit/s throughout: {down.source}")
        share = self._figure(self.uplink_share, _UPLINK_SHARE, recorded.access)
        if "uplink_mbps" not in known:
            series = rates(known["downlink_mbps"] * share.value)
            take("uplink_mbps", series, f"{share.value:g} of the downlink: {share.source}")
        elif "downlink_mbps" not in known:
            series = np.minimum(known["uplink_mbps"] / share.value, FASTEST_MBPS)
            take("downlink_mbps", series, f"such that the uplink is {share.value:g} of it: {share.source}")
        rtt_ms, uplink_mbps, downlink_mbps = (known[name] for name in SERIES)
        rules = {name: filled[name] for name in SERIES if name in filled}
        return LinkTrace(recorded.name, recorded.family, recorded.step_seconds, rtt_ms, uplink_mbps, downlink_mbps, rules)

    def _figure(self, own: float | None, published: dict[Access, _Figure], access: Access) -> _Figure:
        return published[access] if own is None else _Figure(own, "as given")


def filled_by_family(links: Iterable[LinkTrace]) -> dict[str, dict[str, list[str]]]:
    """Return the rules that filled series of links, by family and series; what was recorded throughout is not there."""
    found: dict[str, dict[str, set[str]]] = {}
    for link in links:
        for name, rule in link.filled.items():
            found.setdefault(link.family, {}).setdefault(name, set()).add(rule)
    return {
        family: {name: sorted(series[name]) for name in SERIES if name in series} for family, series in sorted(found.items())
    }
