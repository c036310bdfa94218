"""Structured logging: one line an event, `key=value` each or a JSON object, over the standard library's logging.

What does not live here: which events there are; each module logs its own, with `extra=fields(...)`.
"""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

LINES_A_SECOND = 20
"""Most lines that one place in the code writes in a second; of the others only their number is told."""
_LONGEST_VALUE = 10_000
"""Characters; of a longer one (a trace, perhaps of a peer's making) the beginning and the end are kept."""
_PLAIN = re.compile(r"[\w.:/@+-]+", re.ASCII)
_NOTHING: Mapping[str, object] = MappingProxyType({})
_configured: tuple[str, Literal["logfmt", "json"]] | None = None
_bound: ContextVar[Mapping[str, object]] = ContextVar("bound", default=_NOTHING)


def fields(**values: object) -> dict[str, object]:
    """Return the fields of an event, for the `extra` of a logging call; what is bound comes after them."""
    return {"fields": {**values, **_bound.get()}}


def bind(**values: object) -> None:
    """Let every event from here on in this task, and in those that it starts, carry these fields."""
    _bound.set(values)


class KeyValueFormatter(logging.Formatter):
    """Writes a record as one line: time, level, logger, event, its fields, and the trace of its exception.

    A value of other characters than letters, digits and `_.:/@+-` is a JSON string, so no value can break the line or
    act on a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return " ".join(f"{key}={_quoted(_cut(str(value)))}" for key, value in _values(self, record).items())


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object on a line of ASCII, with the keys of :class:`KeyValueFormatter`.

    Finite numbers, truths and null stay what they are; anything else is a string.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        return json.dumps({key: _plain(value) for key, value in _values(self, record).items()})


FORMATTERS: Mapping[str, type[logging.Formatter]] = {"logfmt": KeyValueFormatter, "json": JsonFormatter}
"""By the name that a user gives."""


@dataclass(slots=True)
class _Place:
    """A place in the code that logs, within the present second."""

    first: logging.LogRecord
    lines: int = 0


class LimitedHandler(logging.StreamHandler):  # type: ignore[type-arg]  # the stubs know of streams what Python does not
    """Writes to standard error at most so many lines a second of each place in the code that logs; nobody can fill the disk.

    What was left out is told by one line for each such place, with its level: `lines left out`. It comes before the first
    line of any kind that is written after the second is over, or at the end.
    """

    def __init__(self, lines_a_second: int = LINES_A_SECOND, now: Callable[[], float] = time.monotonic) -> None:
        """Write to what standard error is now.

        Args:
            lines_a_second: the most of one place.
            now: monotonic seconds.
        """
        super().__init__()
        self._most, self._now = lines_a_second, now
        self._places: dict[tuple[str, int], _Place] = {}
        self._until = -math.inf

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        if self._now() >= self._until:
            self._tell()
            self._until = self._now() + 1.0
        place = self._places.setdefault((record.pathname, record.lineno), _Place(record))
        place.lines += 1
        if place.lines <= self._most:
            super().emit(record)

    def close(self) -> None:
        """Tell what is not told yet."""
        self.acquire()
        try:
            self._tell()
        finally:
            self.release()
        super().close()

    def _tell(self) -> None:
        places, self._places = self._places, {}
        for place in places.values():
            if (left_out := place.lines - self._most) > 0:
                of = place.first
                said = logging.LogRecord(of.name, of.levelno, of.pathname, of.lineno, "lines left out", (), None)
                said.fields = {"of": of.getMessage(), "lines": left_out}
                super().emit(said)


def configure(level: str, form: Literal["logfmt", "json"] = "logfmt") -> None:
    """Log to standard error from now on, whatever was configured before.

    Args:
        level: the least severe that is written, debug, info, warning or error.
        form: what a line looks like, a name in `FORMATTERS`.
    """
    global _configured
    handler = LimitedHandler()
    handler.setFormatter(FORMATTERS[form]())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    _configured = level, form


def configured() -> tuple[str, Literal["logfmt", "json"]] | None:
    """Return what `configure` was last called with, for processes that are to log alike; None where it was not."""
    return _configured


def _values(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, object]:
    values: dict[str, object] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": record.getMessage(),
    }
    values |= getattr(record, "fields", {})
    if record.exc_info:
        values["trace"] = formatter.formatException(record.exc_info)
    return values


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _cut(str(value))


def _cut(value: str) -> str:
    if len(value) <= _LONGEST_VALUE:
        return value
    half = _LONGEST_VALUE // 2
    return f"{value[:half]} ... {value[-half:]}"


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value)
