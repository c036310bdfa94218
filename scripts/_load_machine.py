"""CPU time of a process and of the whole machine, where /proc tells them (Linux).

What does not live here: what is made of it (_load_result.py).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PROC = Path("/proc")


@dataclass(frozen=True)
class CpuTimes:
    """Seconds of CPU time so far; None where nothing tells them."""

    machine: float | None
    process: float | None

    @classmethod
    def now(cls, pid: int | None) -> Self:
        """Read them, of the machine and of a process."""
        return cls(_machine(), None if pid is None else _process(pid))

    def since(self, before: CpuTimes, seconds: float) -> tuple[float | None, float | None]:
        """Cores that machine and process kept busy, from `before` to this, `seconds` later."""
        pairs = ((self.machine, before.machine), (self.process, before.process))
        machine, process = ((b - a) / seconds if a is not None and b is not None else None for b, a in pairs)
        return machine, process


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
