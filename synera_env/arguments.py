"""What a user hands an environment, made into what it needs and checked at once: objects, files, or plain values.

What does not live here: the formats of the files (traces/), and what only one world takes (its own module).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from runtime.errors import SettingError, SyneraError
from runtime.settings import shown
from synera_env.radio import Outages
from synera_env.reward import Preference
from traces.errors import TraceError
from traces.links.readers import load
from traces.links.trace import LinkTrace
from traces.schemas import parse_json

T = TypeVar("T")
Source = str | Path
"""A file or folder that holds what is asked for."""
Links = Source | LinkTrace | Sequence[LinkTrace | Mapping[str, Any]]
"""Link traces, or the fields of each, or a file or folder of them in any form that is known (`traces.links.readers`)."""


def read(name: str, value: object, kind: type[T], load: Callable[[Source], T]) -> T:
    """Return an argument as a `kind`: itself, or what its file holds.

    Args:
        name: of the argument.
        value: what was given.
        kind: what is needed.
        load: reads the file.

    Raises:
        SettingError: it is neither.
        TraceError: the file is missing or damaged.
    """
    if isinstance(value, kind):
        return value
    if isinstance(value, Source):
        return load(value)
    raise SettingError(f"{name}={shown(value)} must be {_one(kind)} or the path of one")


def made(name: str, value: object, kind: type[T], load: Callable[[Source], T] | None = None) -> T:
    """Return an argument as a dataclass: itself, made of a mapping of its fields, or what its file holds.

    Args:
        name: of the argument.
        value: what was given.
        kind: the dataclass.
        load: reads the file; None takes none.

    Raises:
        SettingError: it is none of these, or a field is unknown, missing or wrong.
        TraceError: the file is missing or damaged.
    """
    if isinstance(value, kind):
        return value
    if isinstance(value, Mapping):
        return _of_fields(name, value, kind)
    if load is not None and isinstance(value, Source):
        return load(value)
    allowed = [_one(kind), "a mapping of its fields", *(["the path of one"] if load is not None else [])]
    raise SettingError(f"{name}={shown(value)} must be {', '.join(allowed[:-1])} or {allowed[-1]}")


def _of_fields(name: str, stated: Mapping[Any, Any], kind: type[T]) -> T:
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    if unknown := [key for key in stated if key not in known]:
        raise SettingError(f"{name} has no field {shown(unknown[0])}; {_one(kind)} has {', '.join(known)}")
    try:
        return parse_json(json.dumps(dict(stated), default=_plain), kind, name)
    except TraceError as error:
        raise SettingError(str(error)) from None
    except (TypeError, ValueError, RecursionError) as error:
        raise SettingError(f"{name}={shown(stated)} is not made of plain values: {error}") from None


def _one(kind: type) -> str:
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"


def _plain(value: object) -> object:
    """A numpy value as Python's own; json asks for what it does not know."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is not one")


def read_preference(value: Preference | Mapping[str, float], name: str = "preference") -> Preference:
    """Return a preference, given as one or as a mapping of its weights.

    Raises:
        SettingError: it is neither, or a weight is unknown or wrong.
    """
    return made(name, value, Preference)


def read_outages(value: Outages | Mapping[str, float] | None) -> Outages:
    """Return outages, given as such or as a mapping of their fields; None is the default.

    Raises:
        SettingError: it is neither, or a field is unknown or wrong.
    """
    return Outages() if value is None else made("outages", value, Outages)


def read_links(value: Links) -> tuple[LinkTrace, ...]:
    """Return link traces, given as such, as mappings of their fields, or as a file or folder.

    Raises:
        SettingError: it is none of these, or there are no links.
        TraceError: the file is missing or damaged, or a trace makes no sense.
    """
    if isinstance(value, Source):
        value = load(value)
    elif isinstance(value, LinkTrace):
        value = (value,)
    elif not isinstance(value, Sequence):
        raise SettingError(f"links={shown(value)} must be link traces, or a file or folder of them")
    if not value:
        raise SettingError("no link traces given; give at least one")
    return tuple(_link(f"links[{place}]", each) for place, each in enumerate(value))


def _link(name: str, value: object) -> LinkTrace:
    if isinstance(value, LinkTrace):
        return value
    if not isinstance(value, Mapping):
        raise SettingError(f"{name}={shown(value)} must be a LinkTrace or a mapping of its fields")
    try:
        series = {key: np.array(value[key], float) for key in ("rtt_ms", "uplink_mbps", "downlink_mbps")}
        return LinkTrace(**(dict(value) | series))
    except SyneraError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SettingError(f"{name} is not a link trace: {type(error).__name__}: {error}") from None
