"""CICV5G: round trips of small messages vehicle - cloud - vehicle over 5G, 20 Hz (one run 100 Hz).

The round trip of a message holds from when it was sent until the next is sent, also over pauses in which none was. A trace has
steps of 50 ms. No rates are recorded; round trips end at the echo server of the test bed. Source: zxr805/CICV5G.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from traces.links.resampling import even_step, held
from traces.links.source import Format, Recording
from traces.links.text import Text
from traces.links.trace import LONGEST_RTT_MS

STEP_SECONDS = 0.05
_SENT, _DELAY = 0, 2
_NETWORK = re.compile(r"(?<![a-z0-9])n\d+(?![a-z0-9])")


def recognises(lines: Sequence[str]) -> bool:
    """Whether the header begins with the columns that are needed."""
    return lines[0].split()[:3] == ["pub_time(ms)", "sub_time(ms)", "delay(ms)"]


def read(text: Text) -> Recording:
    """Read the round trips; see :class:`Format`."""
    rows = text.rows(None, 3, first=2, exactly=False)
    sent = text.rising("pub_time(ms)", text.numbers("pub_time(ms)", [row[_SENT] for row in rows], 2, 0, 1e15), 2)
    delay = text.numbers("delay(ms)", [row[_DELAY] for row in rows], 2, 0, LONGEST_RTT_MS)
    times = (sent - sent[0]) / 1e3
    rtt = held(times, delay, 0.0, float(times[-1]) + even_step(times), STEP_SECONDS)
    where = text.path.resolve()
    network = next((found[0] for part in (where.name, *reversed(where.parts[:-1])) if (found := _network(part))), None)
    return Recording(text.stem, f"cicv5g-{network}" if network else "cicv5g", "5g", STEP_SECONDS, rtt_ms=rtt)


def _network(part: str) -> list[str]:
    """Names of networks (n78, n8) in a name; a run's speed and number are told by other letters."""
    return _NETWORK.findall(part.lower().replace("_", " "))


FORMAT = Format("cicv5g", "a header line that begins with pub_time(ms) sub_time(ms) delay(ms)", recognises, read)
