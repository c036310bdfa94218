"""JSON files read into frozen dataclasses, every field checked: its type, its range, nothing missing, nothing unknown.

What does not live here: the dataclasses (they state their ranges with `pydantic.Field`) and writing (files.py).
"""

from __future__ import annotations

import os
import stat
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from runtime.settings import first_finding, shown
from traces.errors import TraceError

T = TypeVar("T")
EXACT = ConfigDict(extra="forbid", allow_inf_nan=False)
"""For `__pydantic_config__`: no field but those that are stated, no number that is not finite."""
Name = Annotated[str, Field(min_length=1, max_length=200)]
"""What something is called."""
Prose = Annotated[str, Field(max_length=2000)]
"""A few sentences for a reader."""
_LARGEST = 256 * 2**20  # bytes; a link file of a million samples has about 30 MB


def read_json(path: str | Path, kind: type[T], missing: str) -> T:
    """Read a JSON file as a dataclass.

    Args:
        path: the file.
        kind: a dataclass; give it `__pydantic_config__ = EXACT`.
        missing: the message when there is no such file.

    Raises:
        TraceError: it is missing, unreadable, or not what the dataclass says; names the first field that is wrong.
    """
    return parse_json(read_file(path, missing), kind, str(path))


def read_file(path: str | Path, missing: str, largest: int = _LARGEST) -> bytes:
    """Read a regular file of a size that makes sense.

    Args:
        path: the file.
        missing: the message when there is no such file.
        largest: most bytes.

    Raises:
        TraceError: it is missing, unreadable, too large, or a folder, a device or a pipe, which might never end.
    """
    try:
        there = os.stat(path)
        if not stat.S_ISREG(there.st_mode):
            raise TraceError(f"{path} cannot be read: it is not a regular file")
        if there.st_size > largest:
            raise TraceError(f"{path} cannot be read: it has {there.st_size} bytes, and at most {largest} make sense")
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise TraceError(missing) from None
    except OSError as error:
        raise TraceError(f"{shown(str(path), 200)} cannot be read: {error.strerror or error}") from None


def parse_json(content: bytes | str, kind: type[T], where: str) -> T:
    """Read JSON text as a dataclass; see :func:`read_json`.

    Raises:
        TraceError: it is not what the dataclass says.
    """
    try:
        return TypeAdapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        raise TraceError(f"{where} is not a {kind.__name__.lstrip('_')}: {first_finding(error)}") from None


def check_fields(instance: Any) -> None:
    """Hold a dataclass that was made in Python to what its fields state; for `__post_init__`.

    Raises:
        TraceError: a field is of another type or out of its range; says which, its value and what is allowed.
    """
    for name, adapter in _adapters(type(instance)).items():  # type: ignore[arg-type]
        try:
            adapter.validate_python(getattr(instance, name), strict=True)
        except ValidationError as error:
            raise TraceError(first_finding(error, name)) from None


@cache
def _adapters(kind: type[Any]) -> dict[str, TypeAdapter[Any]]:
    hints = get_type_hints(kind, include_extras=True)
    return {f.name: TypeAdapter(hints[f.name], config=EXACT) for f in fields(kind)}
