"""Two columns, time in s and throughput in Mbit/s, as Pensieve's simulator takes them: Norway 3G, FCC, Oboe, Puffer, and others.

A row's rate holds from the row above it to its own time, as in the simulator of hongzimao/pensieve, so that the first row only
says where time begins. Steps are uneven; a trace has steps of 1 s. It is the throughput of downloads, taken for the downlink;
neither an uplink nor round trips are recorded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from traces.errors import TraceError
from traces.links.resampling import averaged, over_intervals, rates
from traces.links.source import Access, Format, Recording
from traces.links.text import FURTHEST_SECONDS, Text
from traces.links.trace import FASTEST_MBPS

STEP_SECONDS = 1.0
_NUMBER = r"[-+]?[\d.]+(?:[eE][-+]?\d+)?"
_ROW = re.compile(rf"\s*{_NUMBER}\s+{_NUMBER}\s*")
_SETS: tuple[tuple[str, str, Access], ...] = (
    ("norway", "norway", "3g"),
    ("3gp", "norway", "3g"),
    ("fcc", "fcc", "fixed"),
    ("oboe", "oboe", "unknown"),
    ("puffer", "puffer", "unknown"),
)
"""Of the public sets a word in the name of the file or its folder, their family, and how they were connected."""


def recognises(lines: Sequence[str]) -> bool:
    """Whether lines are two numbers each, with blanks between them."""
    return all(_ROW.fullmatch(line) for line in lines[:3])


def read(text: Text) -> Recording:
    """Read the throughput; see :class:`Format`."""
    rows = text.rows(None, 2)
    times = text.rising("time", text.numbers("time", [row[0] for row in rows], 1, -FURTHEST_SECONDS, FURTHEST_SECONDS), 1)
    mbps = text.numbers("throughput in Mbit/s", [row[1] for row in rows], 1, 0, FASTEST_MBPS)
    times, mbps = averaged(times, mbps)
    if len(times) < 2:
        raise TraceError("it is too short: two rows of different times are the least")
    family, access = _set_of(text)
    return Recording(
        text.stem, family, access, STEP_SECONDS, downlink_mbps=rates(over_intervals(times, mbps[1:], STEP_SECONDS))
    )


def _set_of(text: Text) -> tuple[str, Access]:
    """The family: a public set, else the folder."""
    folder = text.path.resolve().parent.name
    for word, family, access in _SETS:
        if word in text.path.name.lower() or word in folder.lower():
            return family, access
    return folder or "throughput", "unknown"


FORMAT = Format("pensieve", "two numbers a line, time in s and throughput in Mbit/s, no header", recognises, read)
