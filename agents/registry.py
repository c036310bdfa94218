"""Controllers by name: the named settings of a schema, chance, and any bundle by its folder."""

from __future__ import annotations

from pathlib import Path

from agents.base import Controller
from agents.bundle import Bundle
from agents.rules import FixedRule, RandomRule
from runtime.settings import shown
from synera_env import Schema, SettingError


def rules(schema: Schema) -> dict[str, Controller]:
    """Every rule of a schema by its name."""
    fixed: dict[str, Controller] = {name: FixedRule(knobs, schema) for name, knobs in schema.presets.items()}
    return fixed | {"random": RandomRule(schema)}


def controller(name: str, schema: Schema) -> Controller:
    """Return a controller.

    Args:
        name: a rule (such as `never`, `always`, `threshold`, `random`), or the folder of a bundle.
        schema: what it will see and set.

    Raises:
        BundleError: the bundle is missing, damaged, or of another schema (such as another number of exits).
        SettingError: no such rule and no such folder.
    """
    known = rules(schema)
    if name in known:
        return known[name]
    if not _is_folder(name):
        raise SettingError(f"no controller {shown(name)}: it is neither a rule ({', '.join(known)}) nor the folder of a bundle")
    return Bundle.load(name).controller(schema)


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:  # a name that is longer than any folder's
        return False
