"""JSON files read into frozen dataclasses, every field checked: its type, its range, nothing missing, nothing unknown.

What does not live here: the dataclasses (they state their ranges with `pydantic.Field`) and writing (files.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from runtime.settings import shown
from traces.errors import TraceError

T = TypeVar("T")


def read_json(path: str | Path, kind: type[T], missing: str) -> T:
    """Read a JSON file as a dataclass.

    Args:
        path: the file.
        kind: a dataclass; give it `__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)`.
        missing: the message when there is no such file.

    Raises:
        TraceError: it is missing, unreadable, or not what the dataclass says; names the first field that is wrong.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise TraceError(missing) from None
    except OSError as error:
        raise TraceError(f"{path} cannot be read: {error.strerror or error}") from None
    return parse_json(content, kind, str(path))


def parse_json(content: bytes | str, kind: type[T], where: str) -> T:
    """Read JSON text as a dataclass; see :func:`read_json`.

    Raises:
        TraceError: it is not what the dataclass says.
    """
    try:
        return TypeAdapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        raise TraceError(f"{where} is not a {kind.__name__}: {_first(error)}") from None


def _first(error: ValidationError) -> str:
    """The first of pydantic's findings, as one clause; what was given is shown cut."""
    found = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in found["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    given = "" if found["type"] in ("missing", "json_invalid") else f", not {shown(found['input'], 60)}"
    said = found["msg"].removeprefix("Value error, ")
    return f"{place}: {said}{given}{more}" if place else f"{said}{more}"
