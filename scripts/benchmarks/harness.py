"""Side-by-side timing: two pieces of work in turn, in one process, so that a busy machine slows both.

What does not live here: what is measured (one module an area) and how figures are shown (scripts/bench.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Literal

from traces.files import write_json
from traces.schemas import read_json

Work = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """What every area is handed."""

    pair: Path
    """Folder with the model folders slm/ and llm/."""
    repetitions: int
    """Pairs of timings behind each figure."""
    threads: int
    """Threads that tensor arithmetic may use, ours and the peer's alike."""
    before: str = ""
    """For `record`: the state of the project to compare with, a commit or a folder; by default the last before its recorder."""


@dataclass(frozen=True)
class Figure:
    """One measured value beside its peer; the fields are those of the JSON file."""

    name: str
    value: float
    unit: str
    goal: float | None
    """What the value should reach; None where it only informs."""
    better: Literal["higher", "lower"]
    peer: str
    """What was measured in turn with ours, and both medians."""

    @property
    def met(self) -> bool:
        """True when the goal is reached, or there is none."""
        if self.goal is None:
            return True
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal


@dataclass(frozen=True)
class Comparison:
    """Timings of two pieces of work that took turns, in seconds."""

    ours: Sequence[float]
    peer: Sequence[float]

    @property
    def speedup(self) -> float:
        """Median over the turns of the peer's time divided by ours; above 1, ours is faster."""
        return median(theirs / own for own, theirs in zip(self.ours, self.peer, strict=True))

    def per_unit(self, ours: int, peer: int) -> Comparison:
        """Divide the timings by what each did in one turn, such as its tokens."""
        return Comparison([seconds / ours for seconds in self.ours], [seconds / peer for seconds in self.peer])

    def describe(self, peer: str) -> str:
        """Name the peer, with both medians."""
        return f"{peer}: {1e3 * median(self.peer):.3f} ms, ours {1e3 * median(self.ours):.3f} ms"


def compare(ours: Work, peer: Work, repetitions: int) -> Comparison:
    """Time two pieces of work in turn, each first in every other turn; one turn of each to warm up."""
    taken: tuple[list[float], list[float]] = ([], [])
    ours()
    peer()
    for turn in range(repetitions):
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            began = perf_counter()
            (ours, peer)[which]()
            taken[which].append(perf_counter() - began)
    return Comparison(*taken)


def speedup(name: str, ours: Work, peer: Work, peer_name: str, setting: Setting, goal: float) -> Figure:
    """Measure how many times as fast as the peer ours is."""
    found = compare(ours, peer, setting.repetitions)
    return Figure(name, found.speedup, "x as fast", goal, "higher", found.describe(peer_name))


def write_figures(figures: Sequence[Figure], path: Path) -> None:
    """Write a JSON list of figures, whole or not at all."""
    write_json(path, [asdict(figure) for figure in figures])


def read_figures(path: Path) -> list[Figure]:
    """Read what :func:`write_figures` wrote.

    Raises:
        TraceError: it is missing, or no list of figures.
    """
    return read_json(path, list[Figure], f"no figures at {path}")
