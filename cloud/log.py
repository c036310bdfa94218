"""Structured logging: one line an event, `key=value` each, over the standard library's logging.

What does not live here: which events there are; each module logs its own, with `extra=fields(...)`.
"""

from __future__ import annotations

import json
import logging
import re
from datetime import UTC, datetime

_LONGEST_VALUE = 10_000
"""Characters; of a longer one (a trace, perhaps of a peer's making) the beginning and the end are kept."""
_PLAIN = re.compile(r"[\w.:/@+-]+", re.ASCII)


def fields(**values: object) -> dict[str, object]:
    """Return the fields of an event, for the `extra` of a logging call."""
    return {"fields": values}


class KeyValueFormatter(logging.Formatter):
    """Writes a record as one line: time, level, logger, event, its fields, and the trace of its exception.

    A value of other characters than letters, digits and `_.:/@+-` is a JSON string, so no value can break the line or
    act on a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        values: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        values |= getattr(record, "fields", {})
        if record.exc_info:
            values["trace"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={_quoted(str(value))}" for key, value in values.items())


def configure(level: str) -> None:
    """Log to standard error from now on, whatever was configured before.

    Args:
        level: the least severe that is written, debug, info, warning or error.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(KeyValueFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _quoted(value: str) -> str:
    if len(value) > _LONGEST_VALUE:
        half = _LONGEST_VALUE // 2
        value = f"{value[:half]} ... {value[-half:]}"
    return value if _PLAIN.fullmatch(value) else json.dumps(value)
