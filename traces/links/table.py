"""The general form: comma-separated with the header `time,rtt_ms,uplink_mbps,downlink_mbps`, all but the time may be left out.

A row's values hold from its time, in s, until the next row's. An empty field, or `-`, is not measured: the value before it holds on.
The step is that of the rows, or their median where it is uneven. Another column is refused, as it may be of another unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from traces.errors import TraceError
from traces.links.resampling import even_step, held, rates
from traces.links.source import Format, Recording
from traces.links.text import FURTHEST_SECONDS, Text
from traces.links.trace import FASTEST_MBPS, LONGEST_RTT_MS, SERIES

_HIGHEST = {"rtt_ms": LONGEST_RTT_MS, "uplink_mbps": FASTEST_MBPS, "downlink_mbps": FASTEST_MBPS}


def recognises(lines: Sequence[str]) -> bool:
    """Whether the header begins with a time and has a further column."""
    names = _names(lines[0])
    return names[0] == "time" and len(names) > 1


def read(text: Text) -> Recording:
    """Read the series that there are; see :class:`Format`."""
    names = _names(text.lines[0])
    if names[0] != "time" or set(names[1:]) - {*SERIES} or len(set(names)) < len(names):
        raise text.wrong(1, f"its columns are {', '.join(names)}; write time and any of {', '.join(SERIES)}, each once")
    rows = text.rows(",", len(names), first=2)
    times = text.rising("time", text.numbers("time", [row[0] for row in rows], 2, -FURTHEST_SECONDS, FURTHEST_SECONDS), 2)
    if len(times) < 2:
        raise TraceError("it is too short: two rows are the least")
    step = even_step(times)
    found = {}
    for place, name in enumerate(names[1:], 1):
        values = text.numbers(name, [row[place] for row in rows], 2, 0, _HIGHEST[name], gaps=True)
        if not np.isnan(values).all():
            series = held(times, values, float(times[0]), float(times[-1]) + step, step)
            found[name] = series if name == "rtt_ms" else rates(series)
    if not found:
        raise TraceError("it has no value in any of its columns")
    return Recording(text.stem, text.path.resolve().parent.name or "csv", "unknown", step, **found)


def _names(header: str) -> list[str]:
    return [name.strip().strip('"') for name in header.split(",")]


FORMAT = Format("csv", "a header line time,rtt_ms,uplink_mbps,downlink_mbps, all but the time if wanted", recognises, read)
