"""The live answers that a device wrote down (runtime/telemetry.py), read back as records, every line of them checked.

What does not live here: the lines, how a dataclass is read off one (plain.py), and what is made of the records (metrics.py).
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from runtime.errors import SettingError
from runtime.hat.values import HatRecord
from runtime.session import StepRecord
from runtime.settings import first_finding, shown
from runtime.synera.chunk import ChunkRecord
from runtime.telemetry import (
    FORMAT_VERSION,
    AppendFile,
    Begun,
    DecisionLog,
    Ended,
    Settled,
    file_before,
    prompt_hash,
)
from synera_env.arguments import read_preference
from synera_env.hat.charge import charging, check_first_token_weight
from synera_env.metrics import EpisodeMetrics, episode_metrics
from synera_env.plain import as_written
from synera_env.reward import Preference
from traces.errors import TraceError
from traces.schemas import read_file

__all__ = [
    "DECISIONS",
    "RECORDS",
    "AppendFile",
    "Begun",
    "DecisionLog",
    "Ended",
    "LoggedAnswer",
    "RunLog",
    "Settled",
    "prompt_hash",
    "read_run",
]

DECISIONS = "decisions.jsonl"
"""The file of lines, in a run's folder."""
RECORDS: dict[str, type[StepRecord]] = {"synera": ChunkRecord, "hat": HatRecord}
"""By system, what its steps are read as."""
T = TypeVar("T")


@dataclass(frozen=True)
class LoggedAnswer:
    """An answer, as far as it is written down."""

    begun: Begun
    records: tuple[Any, ...] = ()
    """Of its steps, of the system's own kind of :class:`runtime.session.StepRecord`; arrays in them are empty."""
    ended: Ended | None = None
    """None where the file ends before the answer does."""

    @property
    def preference(self) -> Preference:
        """What its controller was told to value."""
        return Preference(**self.begun.preference)

    @property
    def quality(self) -> float:
        """Task score in 0..1; NaN where nobody can tell."""
        return self.ended.quality if self.ended else math.nan

    @property
    def whole(self) -> bool:
        """It was answered to its end, and the line of every step is there."""
        return self.ended is not None and self.ended.error is None and self.ended.steps == len(self.records)

    def metrics(self) -> EpisodeMetrics:
        """Compute its metrics from its records.

        Raises:
            TraceError: it is not whole.
        """
        if not self.whole:
            raise TraceError(f"answer {self.begun.answer} is not whole, so it has no metrics")
        return episode_metrics(self.records, self.quality, self.preference, charging(self.begun.first_token_weight))


@dataclass(frozen=True)
class RunLog:
    """What is written down of a run."""

    answers: tuple[LoggedAnswer, ...]
    """In the order in which they began."""
    torn: bool
    """A last line is cut off and left out: the process was killed as it wrote, or is writing still."""
    headless: int
    """Lines that are left out, as that of their answer's beginning is not there any more."""


def read_run(path: str | Path) -> RunLog:
    """Read what a live run wrote down.

    Args:
        path: its folder, or its file of lines; the file before that, where there is one, is read first.

    Raises:
        TraceError: it is missing or too large, or a line is not what it should be; says which line, and why.
    """
    path = Path(path) / DECISIONS if os.path.isdir(path) else Path(path)
    missing = f"no live run at {shown(str(path), 200)}; synera deploy --log FOLDER writes one"
    reading = _Reading()
    torn = False
    for each in (file_before(path), path):
        if each != path and not os.path.exists(each):
            continue
        *lines, rest = read_file(each, missing).split(b"\n")
        torn |= bool(rest)
        for number, line in enumerate(lines, 1):
            try:
                reading.take(line)
            except (TraceError, SettingError) as error:
                raise TraceError(f"{shown(str(each), 200)[1:-1]}, line {number}: {error}") from None
    return RunLog(reading.answers, torn, reading.headless)


@dataclass(frozen=True)
class _Head:
    """What every line has, and what is looked at before the rest of it."""

    __pydantic_config__ = ConfigDict(extra="ignore")

    event: str
    answer: int
    format_version: int = FORMAT_VERSION


@dataclass
class _Open:
    """An answer while its lines come."""

    begun: Begun
    records: list[Any] = field(default_factory=list)
    last: int = 0
    """Number of its last step."""
    ended: Ended | None = None


class _Reading:
    """The answers of the lines so far; a line that cannot be there is a TraceError or a SettingError."""

    def __init__(self) -> None:
        self._answers: dict[int, _Open] = {}
        self.headless = 0

    @property
    def answers(self) -> tuple[LoggedAnswer, ...]:
        """In the order in which they began."""
        return tuple(LoggedAnswer(each.begun, tuple(each.records), each.ended) for each in self._answers.values())

    def take(self, line: bytes) -> None:
        """Add a line to the answer that it is of."""
        head = _parsed(line, _Head)
        if head.format_version != FORMAT_VERSION:
            raise TraceError(f"it is of format {head.format_version}, this version reads {FORMAT_VERSION}")
        answer = self._answers.get(head.answer)
        if head.event == "begin":
            self._begin(_parsed(line, Begun))
        elif head.event not in ("step", "end"):
            raise TraceError(f"{shown(head.event)} is no event; known are begin, step and end")
        elif answer is None:
            self.headless += 1
        elif answer.ended is not None:
            raise TraceError(f"answer {head.answer} has ended before")
        elif head.event == "step":
            _settle(answer, _parsed(line, Settled, record=RECORDS[answer.begun.system]))
        else:
            _end(answer, _parsed(line, Ended))

    def _begin(self, begun: Begun) -> None:
        if begun.answer in self._answers:
            raise TraceError(f"answer {begun.answer} begins a second time; one file is of one run")
        if begun.system not in RECORDS:
            raise TraceError(f"system {shown(begun.system)} is not known; known are {', '.join(RECORDS)}")
        read_preference(begun.preference)
        check_first_token_weight(begun.first_token_weight)
        self._answers[begun.answer] = _Open(begun)


def _settle(answer: _Open, settled: Settled) -> None:
    if settled.number <= answer.last:
        raise TraceError(f"step {settled.number} of answer {settled.answer} comes after step {answer.last}")
    answer.records.append(settled.record)
    answer.last = settled.number


def _end(answer: _Open, ended: Ended) -> None:
    if ended.steps < answer.last:
        raise TraceError(f"answer {ended.answer} ends after {ended.steps} steps, but its step {answer.last} is there")
    if ended.error is None and ended.steps == len(answer.records) and not any(r.committed for r in answer.records):
        raise TraceError(f"answer {ended.answer} is done without a token")
    answer.ended = ended


def _parsed(line: bytes, kind: type[T], **narrower: Any) -> T:
    """Read a line as a dataclass; `narrower` says of what kind a field is where the dataclass says less."""
    try:
        return _adapter(kind, **narrower).validate_json(line, strict=True)  # type: ignore[arg-type]
    except ValidationError as error:
        raise TraceError(first_finding(error)) from None


@cache
def _adapter(kind: Any, **narrower: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind if kind is _Head else as_written(kind, **narrower))
