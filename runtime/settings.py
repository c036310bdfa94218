"""Checks of settings, one clear sentence each: what a user gave, what is allowed.

What does not live here: the settings, and the error's class (errors.py).
"""

from __future__ import annotations

import math

from runtime.errors import SettingError


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
    # In this order, as an integer of hundreds of digits is no float.
    if not number or not low <= value <= high or not math.isfinite(value):
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
    if not number or not low < value < math.inf:
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
