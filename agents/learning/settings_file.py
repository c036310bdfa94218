"""Settings as YAML: those that come with the package, a user's file, and single values from a command line.

What does not live here: what they may be (settings.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml

from agents.learning.settings import Real, Settings
from runtime.settings import shown
from synera_env import SettingError, read_file, write_bytes

_LARGEST_BYTES = 1 << 20
_Settings = TypeVar("_Settings", bound=Settings)


def tuned(agent: str, kind: type[_Settings]) -> _Settings:
    """Return the settings that come with the package."""
    resource = files("agents") / "tuned" / f"{agent}.yaml"
    return _settings(_parsed(resource.read_text(), f"agents/tuned/{agent}.yaml"), kind, f"agents/tuned/{agent}.yaml")


def read_settings(path: Path, kind: type[_Settings]) -> _Settings:
    """Return the settings of a file, which states each of them.

    Raises:
        TraceError: it is missing.
        SettingError: it is no YAML, lacks a setting or has one that the agent does not have, or one is out of range; names the file.
    """
    where = shown(str(path), 200)[1:-1]
    missing = f"no settings at {where}; agents/tuned has those that training takes by default"
    try:
        text = read_file(path, missing, _LARGEST_BYTES).decode()
    except UnicodeDecodeError:
        raise SettingError(f"{where} is not text; settings are YAML, a line each, such as learning_rate: 0.001") from None
    return _settings(_parsed(text, where), kind, where)


def changed(settings: _Settings, changes: Sequence[str]) -> _Settings:
    """Return settings with some of them changed.

    Args:
        settings: to change.
        changes: NAME=VALUE each, the value as in YAML.

    Raises:
        SettingError: one is not of that form, or there is no such setting, or it is out of range.
    """
    found = asdict(settings)
    for change in changes:
        name, equals, value = change.partition("=")
        if not (equals and name and value):
            raise SettingError(f"--set {shown(change)} must be NAME=VALUE, such as learning_rate=0.001")
        found[name] = _parsed(value, f"--set {shown(change)}", plain=True)
    return _settings(found, type(settings), "--set")


def write_settings(path: Path, settings: Settings, comment: str) -> None:
    """Write settings as a file that :func:`read_settings` takes.

    Args:
        path: the file; replaced whole or not at all.
        settings: to write.
        comment: the first line.
    """
    write_bytes(path, f"# {comment}\n{yaml.safe_dump(asdict(settings), sort_keys=False)}".encode())


def _parsed(text: str, where: str, *, plain: bool = False) -> Any:
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):  # ValueError: a date that there is none of
        raise SettingError(f"{where} is no YAML; settings are a line each, such as learning_rate: 0.001") from None
    return found if plain else found or {}


def _settings(stated: Any, kind: type[_Settings], where: str) -> _Settings:
    """Make settings of what a file or a command line states."""
    names = [field.name for field in fields(kind)]
    if not isinstance(stated, Mapping):
        raise SettingError(f"{where} must state settings by name, a line each, such as learning_rate: 0.001")
    if unknown := [name for name in stated if name not in names]:
        raise SettingError(f"{where}: there is no setting {shown(unknown[0])}; there are {', '.join(names)}")
    if lacking := [name for name in names if name not in stated]:
        raise SettingError(f"{where} lacks {', '.join(lacking)}; a file states all settings, --set changes some of them")
    allowed = kind.allowed()
    try:
        return kind(**{name: _number(value) if isinstance(allowed[name], Real) else value for name, value in stated.items()})
    except SettingError as error:
        raise SettingError(f"{where}: {error}") from None


def _number(value: Any) -> Any:
    """A float; YAML 1.1 reads 1e-3, which has no point, as text."""
    try:
        number = float(value) if isinstance(value, str | int) and not isinstance(value, bool) else value
    except (ValueError, OverflowError):
        return value
    return value if isinstance(number, float) and math.isnan(number) else number
