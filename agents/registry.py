"""Controllers by name: the named settings of a schema, chance, levels of a draft, and any bundle by its folder."""

from __future__ import annotations

from pathlib import Path

from agents.base import Controller
from agents.bundle import Bundle
from agents.rules import FixedRule, RandomRule, level_rule
from runtime.settings import shown
from synera_env import Schema, SettingError


def rules(schema: Schema) -> dict[str, Controller]:
    """Every rule of a schema by its name."""
    fixed: dict[str, Controller] = {name: FixedRule(knobs, schema) for name, knobs in schema.presets.items()}
    return fixed | {"random": RandomRule(schema)}


def controller(name: str, schema: Schema) -> Controller:
    """Return a controller.

    Args:
        name: a rule (such as `never`, `always`, `threshold`, `random`), levels of a draft (such as `margin=0.5`; see
            :func:`agents.rules.level_rule`), or the folder of a bundle.
        schema: what it will see and set.

    Raises:
        BundleError: the bundle is missing, damaged, or of another schema (such as another number of exits).
        SettingError: no such rule and no such folder, or a level that makes no sense.
    """
    known = rules(schema)
    if name in known:
        return known[name]
    if _is_folder(name):
        return Bundle.load(name).controller(schema)
    if "=" in name:
        return level_rule(name, schema)
    raise SettingError(
        f"no controller {shown(name)}: it is neither a rule ({', '.join(known)}) nor a level (such as margin=0.5) "
        "nor the folder of a bundle"
    )


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:  # a name that is longer than any folder's
        return False
