"""The 5G and LTE phone log of University College Cork, about a row a second: throughput and ping of file downloads.

`DL_bitrate` (kbit/s) is taken for the downlink while a file is downloaded. Where the phone idles, and in the row of a ping and
those beside it, it says nothing of the link, so the value before holds on: the log's downloads stand still at each of its pings
(in 63 % of those rows the rate is below a twentieth of the median around, two rows further in 3 %). `UL_bitrate` is only the
acknowledgements of the download, so the uplink counts as not recorded. `PINGAVG` (ms) comes about every 13th row and holds until the
next. Rows of one second are averaged. A trace has steps of 1 s.
Source: Raca et al., Beyond Throughput, The Next Generation (MMSys 2020), uccmisl/5Gdataset.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np

from runtime.settings import shown
from traces.errors import TraceError
from traces.links.resampling import held, rates
from traces.links.source import Format, Recording
from traces.links.text import NOT_MEASURED, Text
from traces.links.trace import FASTEST_MBPS, LONGEST_RTT_MS

STEP_SECONDS = 1.0
_COLUMNS = ("Timestamp", "DL_bitrate", "UL_bitrate", "State", "PINGAVG", "PINGLOSS")
_SCENES = ("static", "driving")
_START = datetime(2000, 1, 1)


def recognises(lines: Sequence[str]) -> bool:
    """Whether the header has the columns that are needed."""
    return set(_COLUMNS) <= set(lines[0].split(","))


def read(text: Text) -> Recording:
    """Read downlink and round trips; see :class:`Format`."""
    header = text.lines[0].split(",")
    rows = text.rows(",", len(header), first=2)
    column = {name: [row[header.index(name)] for row in rows] for name in _COLUMNS}
    times = text.rising("Timestamp", np.array([_seconds(text, n, s) for n, s in enumerate(column["Timestamp"], 2)]), 2)
    kbps = text.numbers("DL_bitrate", column["DL_bitrate"], 2, 0, FASTEST_MBPS * 1e3)
    ping = text.numbers("PINGAVG", column["PINGAVG"], 2, 0, LONGEST_RTT_MS, gaps=True)
    pings = np.array([loss not in NOT_MEASURED for loss in column["PINGLOSS"]])
    known = np.array(["D" in state for state in column["State"]]) & ~pings
    known[1:] &= ~pings[:-1]
    known[:-1] &= ~pings[1:]
    if not known.any():
        raise TraceError("it has no row of a download (State D) away from its pings, and so no throughput")
    span = float(times[0]), float(times[-1]) + STEP_SECONDS, STEP_SECONDS
    scene = next((word for word in _SCENES if word in str(text.path.parent).lower()), None)
    return Recording(
        text.stem,
        f"ucc5g-{scene}" if scene else "ucc5g",
        "5g",
        STEP_SECONDS,
        rtt_ms=None if np.isnan(ping).all() else held(times, ping, *span),
        downlink_mbps=rates(held(times, np.where(known, kbps / 1e3, np.nan), *span)),
    )


def _seconds(text: Text, line: int, stamp: str) -> float:
    try:
        return (datetime.strptime(stamp, "%Y.%m.%d_%H.%M.%S") - _START).total_seconds()
    except ValueError:
        raise text.wrong(line, f"Timestamp={shown(stamp)} must be of the form 2019.12.16_13.40.04") from None


FORMAT = Format("ucc5g", f"a header line with {', '.join(_COLUMNS)}", recognises, read)
