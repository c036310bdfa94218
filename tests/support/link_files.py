"""Small files of every form of link trace that is read, all made up, and what is recorded in them.

What does not live here: the tests of the readers (tests/traces/links/).
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

from traces.links.generators import markov_link
from traces.links.store import save_links

UCC5G_HEADER = "Timestamp,Speed,NetworkMode,DL_bitrate,UL_bitrate,State,PINGAVG,PINGLOSS"
CICV5G_HEADER = "pub_time(ms) sub_time(ms) delay(ms) utmX(m) sinr(db)"


def write(path: Path, lines: Sequence[object], packed: bool = False) -> Path:
    """Write lines as text, gzipped where `packed`; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
    return path


def stamp(second: int) -> str:
    """A time of the phone log."""
    return f"2019.12.16_13.{40 + second // 60:02d}.{second % 60:02d}"


def ucc5g_rows(kbps: Sequence[float], pings: dict[int, float]) -> list[str]:
    """The phone log: a download a second, and pings at some seconds."""
    return [UCC5G_HEADER] + [
        f"{stamp(i)},0,5G,{rate},99999,D,{pings.get(i, '-')},{'0.0' if i in pings else '-'}" for i, rate in enumerate(kbps)
    ]


def cicv5g_rows(delays: Sequence[float], step_ms: int = 50) -> list[str]:
    """The log of a vehicle: a message every so many ms."""
    start = 1721200386667
    return [CICV5G_HEADER] + [
        f"{start + step_ms * i} {start + step_ms * i + int(delay)} {delay} 3.5 8 " for i, delay in enumerate(delays)
    ]


def every_form(folder: Path) -> Path:
    """Fill a folder with a trace of each form, three of one family, each some seconds long; return it."""
    write(folder / "mahimahi" / "ATT-LTE-walk.down.gz", range(0, 12_001, 3), packed=True)
    write(folder / "mahimahi" / "ATT-LTE-walk.up.gz", range(0, 12_001, 12), packed=True)
    for number in range(3):
        write(folder / "cooked" / f"norway_bus_{number}", [f"{1.5 * t}\t{1 + (t + number) % 3}" for t in range(20)])
    write(folder / "ucc5g" / "Driving" / "B_1.csv.gz", ucc5g_rows([8000] * 40, {5: 60.0, 20: 90.0}), packed=True)
    write(folder / "cicv5g" / "n78" / "run.txt.gz", cicv5g_rows([16, 17, 18] * 60), packed=True)
    write(folder / "nyumets" / "bus.csv", [f"{v},Mbits/sec" for v in range(1, 21)])
    write(folder / "nyumets" / "BB1.txt", [f"{v}.5,4,0,-91,-19,1,0,2100" for v in range(20)])
    write(folder / "own" / "lab.csv", ["time,rtt_ms,uplink_mbps,downlink_mbps", *(f"{t},{20 + t},5,20" for t in range(20))])
    save_links([markov_link(1, seconds=20.0)], folder / "made.json")
    write(folder / "README.md", ["What lies here."])
    write(folder / ".hidden", ["x"])
    return folder


FAMILIES = ("cicv5g-n78", "mahimahi-ATT-LTE", "markov", "norway", "nyumets", "nyumets-multivariate", "own", "ucc5g-driving")
"""Of :func:`every_form`, in their order."""
