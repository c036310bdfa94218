"""Checks of settings, one clear sentence each: what a user gave, what is allowed.

What does not live here: the settings, and the error's class (errors.py).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from runtime.errors import SettingError

if TYPE_CHECKING:
    from pydantic import ValidationError

_LARGEST = sys.float_info.max  # an integer may be finite and yet no float


def within(name: str, value: float, low: float, high: float = math.inf) -> None:
    """Do nothing for a number in low..high, both included.

    Args:
        name: what the user calls it.
        value: the number.
        low: smallest that is allowed.
        high: largest; infinity allows any finite number.

    Raises:
        SettingError: it is outside, or not a finite number.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= min(high, _LARGEST):
        allowed = f"at least {low:g}" if high == math.inf else f"in {low:g}..{high:g}"
        raise SettingError(f"{name}={shown(value)} must be a number {allowed}")


def whole(name: str, value: int, low: int, high: int) -> None:
    """Do nothing for an integer in low..high, both included.

    Raises:
        SettingError: it is outside, or no integer.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise SettingError(f"{name}={shown(value)} must be an integer in {low}..{high}")


def above(name: str, value: float, low: float) -> None:
    """Do nothing for a finite number above `low`.

    Raises:
        SettingError: it is not.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low < value <= _LARGEST:
        raise SettingError(f"{name}={shown(value)} must be a number above {low:g}")


def one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Do nothing for an allowed word.

    Raises:
        SettingError: it is another.
    """
    if value not in allowed:
        raise SettingError(f"{name}={shown(value)} is not one of {', '.join(allowed)}")


def shown(value: object, longest: int = 80) -> str:
    """Return a value as a message may show it: on one line, not longer than `longest`, nothing in it that acts on a terminal."""
    try:
        return plain(repr(value), longest)
    except ValueError:  # an integer of more digits than Python prints
        return "a number of too many digits"


def plain(text: str, longest: int = 200) -> str:
    """Return text from outside as a message may carry it: what does not print is a question mark, cut to `longest` characters."""
    text = "".join(c if c.isprintable() else "?" for c in text[: longest + 1])
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def imported(what: str, name: str, kind: str) -> Callable[..., Any]:
    """Import what the user named as MODULE:NAME, also from the folder that the user works in; never call it for what a file names.

    Args:
        what: the setting, as a message names it.
        name: MODULE:NAME.
        kind: what NAME should be, as a message names it.

    Raises:
        SettingError: it cannot be imported, or is not there.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that it hides nothing that is installed
    try:
        found = getattr(import_module(module), attribute, None)
    except Exception as error:
        raise SettingError(f"{what}: {module} cannot be imported: {type(error).__name__}: {plain(str(error))}") from error
    if not callable(found):
        raise SettingError(f"{what}: {module} has no {kind} {attribute}")
    return cast("Callable[..., Any]", found)


def first_finding(error: ValidationError, *above: str) -> str:
    """Return the first thing that pydantic found wrong, as one clause; what was given is shown cut.

    Args:
        error: what it raised.
        above: where the part is that it looked at.
    """
    found = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in (*above, *found["loc"]))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    said = found["msg"].removeprefix("Value error, ")
    given = f", not {shown(found['input'], 60)}" if said.startswith("Input should") else ""
    return f"{shown(place)[1:-1]}: {said}{given}{more}" if place else f"{said}{more}"
