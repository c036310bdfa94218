"""NYU-METS: LTE throughput in New York's subway, buses and commuter rail, a row a second, in two forms.

One has a value and its unit, which differs from row to row (`Mbits/sec`, `Kbits/sec`, `bits/sec`); the other eight columns, of
which the first is the throughput in Mbit/s and the rest radio state. It is taken for the downlink; neither an uplink nor
round trips are recorded. Source: NYU-METS/Main.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from runtime.settings import shown
from traces.links.resampling import rates
from traces.links.source import Format, Recording
from traces.links.text import Text
from traces.links.trace import FASTEST_MBPS

STEP_SECONDS = 1.0
_MBPS = {"Mbits/sec": 1.0, "Kbits/sec": 1e-3, "bits/sec": 1e-6, "Gbits/sec": 1e3}
_COLUMNS = 8
_NUMBER = re.compile(r"\s*[-+]?[\d.]+(?:[eE][-+]?\d+)?\s*")


def recognises_units(lines: Sequence[str]) -> bool:
    """Whether the first line is a value and a unit of rate."""
    fields = lines[0].split(",")
    return len(fields) == 2 and fields[1].strip().endswith("bits/sec")


def read_units(text: Text) -> Recording:
    """Read the form with units; see :class:`Format`."""
    rows = text.rows(",", 2)
    values = text.numbers("throughput", [row[0] for row in rows], 1, 0, FASTEST_MBPS * 1e6)
    for number, (_, unit) in enumerate(rows, 1):
        if unit not in _MBPS:
            raise text.wrong(number, f"unit={shown(unit)} is not one of {', '.join(_MBPS)}")
    mbps = values * np.array([_MBPS[unit] for _, unit in rows])
    return Recording(text.stem, "nyumets", "lte", STEP_SECONDS, downlink_mbps=rates(mbps))


def recognises_columns(lines: Sequence[str]) -> bool:
    """Whether lines are eight numbers each."""
    return all(len(fields := line.split(",")) == _COLUMNS and all(map(_NUMBER.fullmatch, fields)) for line in lines[:3])


def read_columns(text: Text) -> Recording:
    """Read the form with radio state; see :class:`Format`."""
    rows = text.rows(",", _COLUMNS)
    mbps = text.numbers("throughput in Mbit/s", [row[0] for row in rows], 1, 0, FASTEST_MBPS)
    return Recording(text.stem, "nyumets-multivariate", "lte", STEP_SECONDS, downlink_mbps=rates(mbps))


UNITS = Format(
    "nyumets", "VALUE,UNIT a line, each a second, the unit Mbits/sec, Kbits/sec or bits/sec", recognises_units, read_units
)
COLUMNS = Format(
    "nyumets multivariate", "eight numbers a line, each a second, the first in Mbit/s", recognises_columns, read_columns
)
