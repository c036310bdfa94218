"""Dataclasses read back from the plain form that `runtime.telemetry.plain` gives them, every field checked, by their own types.

What does not live here: the plain form, files and lines (telemetry.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from runtime.telemetry import NOT_FINITE, written

_LARGEST = 2**63 - 1


def _number(value: Any) -> Any:
    return NOT_FINITE.get(value, value) if isinstance(value, str) else value


_FLOAT = Annotated[float, BeforeValidator(_number)]
_INT = Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)]  # what is computed of it stays a float
_EXACT = ConfigDict(extra="forbid", allow_inf_nan=True)


def as_written(kind: Any, **narrower: Any) -> Any:
    """Return the type that pydantic reads the plain form of a type as; what it reads is of the type itself.

    Nothing may be there that is not a field, nothing missing that has no default. Arrays are not written: they come back
    empty, and whatever is computed from one fails.

    Args:
        kind: a dataclass of plain values, tuples, mappings, options and other such dataclasses.
        narrower: by field of it, its type where that of the dataclass says less.
    """
    if kind is float or kind is int:
        return _FLOAT if kind is float else _INT
    if is_dataclass(kind):
        return _of_fields(kind, narrower)
    origin, parts = get_origin(kind), get_args(kind)
    if origin not in (Union, UnionType, tuple, Mapping):
        return kind
    within: Any = {tuple: tuple, Mapping: dict}.get(origin, Union)
    return within[tuple(part if part is ... else as_written(part) for part in parts)]


def _of_fields(kind: Any, narrower: Mapping[str, Any]) -> Any:
    """A dataclass of the same name whose fields are as they are written, made into the dataclass itself."""
    hints = {**get_type_hints(kind), **narrower}
    names = written(kind)
    stated = make_dataclass(
        kind.__name__,
        [(f.name, as_written(hints[f.name]), _default(f)) for f in fields(kind) if f.name in names],
        kw_only=True,
        namespace={"__pydantic_config__": _EXACT},
    )
    empty = {f.name: np.empty(0, np.float32) for f in fields(kind) if f.name not in names}
    return Annotated[stated, AfterValidator(lambda given: kind(**vars(given), **empty))]


def _default(of: Any) -> Any:
    if of.default is not MISSING:
        return field(default=of.default)
    return field(default_factory=of.default_factory) if of.default_factory is not MISSING else field()
