"""CPU time and memory of a process, and CPU time of the whole machine, where /proc tells them (Linux).

What does not live here: what is made of it (_load_result.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

_PROC = Path("/proc")
_Number = TypeVar("_Number", int, float)
_LISTENS = "0A"  # a state, as the kernel writes it


@dataclass(frozen=True)
class CpuTimes:
    """Seconds of CPU time so far; None where nothing tells them."""

    machine: float | None
    process: float | None

    @classmethod
    def now(cls, pid: int | None) -> Self:
        """Read them, of the machine and of a process with all that it started."""
        return cls(_machine(), None if pid is None else _sum(_process(each) for each in family(pid)))

    def since(self, before: CpuTimes, seconds: float) -> tuple[float | None, float | None]:
        """Cores that machine and process kept busy, from `before` to this, `seconds` later."""
        pairs = ((self.machine, before.machine), (self.process, before.process))
        machine, process = ((b - a) / seconds if a is not None and b is not None else None for b, a in pairs)
        return machine, process


def family(pid: int) -> list[int]:
    """A process and all that it started, and those in turn, as far as they live."""
    found = [pid]
    for each in found:
        with suppress(OSError):
            tasks = [*(_PROC / str(each) / "task").iterdir()]
            found += [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return found


def resident_bytes(pid: int | None) -> int | None:
    """Memory of a process with all that it started, what they share counted for each; None where nothing tells it."""
    return None if pid is None else _sum(_resident_bytes(each) for each in family(pid))


def threads(pid: int) -> int:
    """How many threads a process has; 0 where nothing tells it."""
    try:
        return len(os.listdir(_PROC / str(pid) / "task"))
    except OSError:
        return 0


def _resident_bytes(pid: int) -> int | None:
    try:
        return int((_PROC / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _sum(values: Iterable[_Number | None]) -> _Number | None:
    """Of all that is known; None where nothing is."""
    known = [each for each in values if each is not None]
    return sum(known[1:], known[0]) if known else None


def listener(port: int) -> int | None:
    """The process of this machine that listens on a TCP port; None where there is none that this user may look at."""
    try:
        lines = [line.split() for name in ("tcp", "tcp6") for line in (_PROC / "net" / name).read_text().splitlines()[1:]]
        sockets = {f"socket:[{line[9]}]" for line in lines if line[1].endswith(f":{port:04X}") and line[3] == _LISTENS}
        folders = [each for each in _PROC.iterdir() if each.name.isdecimal()]
    except (OSError, IndexError):
        return None
    return next((int(each.name) for each in folders if not sockets.isdisjoint(_open_files(each))), None)


def _open_files(folder: Path) -> set[str]:
    """What a process has open; nothing of another user's, or of one that is over by now."""
    found = set()
    with suppress(OSError):
        for each in (folder / "fd").iterdir():
            with suppress(OSError):  # it was closed meanwhile
                found.add(os.readlink(each))
    return found


def _machine() -> float | None:
    try:
        user, nice, system, _, _, irq, soft, steal, *_ = map(int, (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:])
    except (OSError, ValueError):
        return None
    return float(user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def _process(pid: int) -> float | None:
    try:
        # The name may hold anything, and ends with the last bracket.
        user, system = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
