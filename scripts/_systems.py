"""The systems that `--system` names, and which options are of one alone.

What does not live here: what a command does of each (its own module).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields
from typing import Any, Literal

from runtime.errors import SettingError

SystemName = Literal["synera", "hat"]
"""Synera offloads chunks of a small model's answer; HAT splits one large model between a device and its cloud."""
Own = Mapping[SystemName, Sequence[str]]
"""By system, the options that are of it alone, by the names of their fields."""


def check_options(arguments: Any, own: Own) -> None:
    """Refuse options that are of another system than the arguments' `system`.

    Args:
        arguments: a dataclass of arguments.
        own: see there; an option of several systems is listed with each.

    Raises:
        SettingError: one of another system was given.
    """
    mine = set(own.get(arguments.system, ()))
    known: dict[str, Field[Any]] = {each.name: each for each in fields(arguments)}
    for system, names in own.items():
        for name in names:
            if system == arguments.system or name in mine or getattr(arguments, name) == default_of(known[name]):
                continue
            option = name.replace("_", "-")
            raise SettingError(
                f"--{option} is of --system {system}, and this is of {arguments.system}; leave out --{option}, or name that system"
            )


def default_of(field: Field[Any]) -> Any:
    """What an argument is where it is not given."""
    return field.default_factory() if field.default_factory is not MISSING else field.default
