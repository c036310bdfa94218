"""The systems that `--system` names, what is bundled of each, and which options are of one alone.

What does not live here: what a command does of each (its own module).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from runtime.errors import SettingError
from runtime.settings import one_of
from traces import bundled

SystemName = Literal["synera", "hat"]
"""Synera offloads chunks of a small model's answer; HAT splits one large model between a device and its cloud."""


@dataclass(frozen=True)
class Bundled:
    """What a system takes where nothing else is named."""

    graphs: Callable[[str], Path]
    """From a split to its graph file."""
    device: Path
    """Device profile."""
    cloud: Path
    """Cloud profile."""


BUNDLED: Mapping[SystemName, Bundled] = {
    "synera": Bundled(bundled.graphs, bundled.profile("phone"), bundled.profile("gpu")),
    "hat": Bundled(bundled.hat_graphs, bundled.profile("edge"), bundled.profile("middle")),
}
"""By system; HAT's profiles are those of its paper's testbed."""
Own = Mapping[SystemName, Sequence[str]]
"""By system, the options that are of it alone, by the names of their fields."""


def unless_bundled(path: Path, system: SystemName = "synera") -> Path | None:
    """Return a graph file, a folder of them or a profile as an option takes it: None for one that is taken anyway, of the test."""
    of = BUNDLED[system]
    test = of.graphs("test")
    return None if path in (test, test.parent, of.device, of.cloud) else path


def check_options(arguments: Any, own: Own) -> None:
    """Refuse options that are of another system than the arguments' `system`.

    Args:
        arguments: a dataclass of arguments.
        own: see there; an option of several systems is listed with each.

    Raises:
        SettingError: one of another system was given, or there is no such system.
    """
    one_of("system", arguments.system, get_args(SystemName))
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
