"""Mahimahi packet-delivery traces: a line is a millisecond in which one packet of 1500 bytes may be sent.

`NAME.up` and `NAME.down` (or gzipped) beside each other were recorded together and make one trace, as long as the shorter one; a
name with neither ending is taken for a downlink. Round trips are not recorded. Source: ravinet/mahimahi, `mm-link`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from traces.links.resampling import packets_per_step, steps_within
from traces.links.source import Access, Format, Recording
from traces.links.text import Text

STEP_MS = 100
_LONGEST_MS = 1e9
_NAME = re.compile(r"(?P<stem>.+)\.(?P<way>up|down)(\.gz)?$")
_GENERATIONS: dict[str, Access] = {"lte": "lte", "umts": "3g", "evdo": "3g", "hspa": "3g"}


def recognises(lines: Sequence[str]) -> bool:
    """Whether lines are one whole number each."""
    return all(re.fullmatch(r"\s*\d{1,10}\s*", line) for line in lines[:3])


def read(text: Text) -> Recording:
    """Read both directions of a link, or the one that there is; see :class:`Format`."""
    named = _NAME.fullmatch(text.path.name)
    stem, way = (named["stem"], named["way"]) if named else (text.stem, "down")
    directions = {way: _times(text)}
    for other in other_direction(text.path):
        directions["up" if way == "down" else "down"] = _times(Text.read(other))
    steps = min(steps_within(float(times[-1]) / 1e3, STEP_MS / 1e3) for times in directions.values())
    series = {way: packets_per_step(times, steps, STEP_MS) for way, times in directions.items()}
    carrier = "-".join(stem.split("-")[:2])
    access: Access = next((kind for word, kind in _GENERATIONS.items() if word in stem.lower()), "unknown")
    return Recording(
        stem, f"mahimahi-{carrier}", access, STEP_MS / 1e3, uplink_mbps=series.get("up"), downlink_mbps=series.get("down")
    )


def other_direction(path: Path) -> list[Path]:
    """Return the file of the other direction, if it lies beside one that is named by its own."""
    if not (named := _NAME.fullmatch(path.name)):
        return []
    other = f"{named['stem']}.{'up' if named['way'] == 'down' else 'down'}"
    return [each for each in (path.with_name(f"{other}{ending}") for ending in ("", ".gz")) if each.is_file()][:1]


def _times(text: Text) -> NDArray[np.int64]:
    times = text.numbers("time in ms", text.lines, 1, 0, _LONGEST_MS)
    return text.rising("time in ms", times, 1).astype(np.int64)


FORMAT = Format("mahimahi", "a time in ms a line, each a packet of 1500 bytes (NAME.up, NAME.down)", recognises, read)
