"""Whom an evaluation compares: bundles by their runs, and controllers by the names that they were given.

What does not live here: the controllers (agents/registry.py).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from agents.base import Controller
from agents.bundle import Bundle
from agents.registry import controller
from agents.rule_file import SUFFIX, RuleFile
from runtime.errors import SettingError
from runtime.settings import shown
from synera_env import DecisionEnv


def distinct_names(paths: Iterable[Path], taken: Iterable[str] = ()) -> dict[str, Path]:
    """Name bundles by their runs, with as many folders above as it takes to tell them from each other.

    Args:
        paths: folders of bundles; a last part `bundle` says nothing, and one that is given twice counts once.
        taken: names that none of them may have.
    """
    folders: dict[tuple[str, ...], Path] = {}
    for path in paths:
        parts = Path(os.path.realpath(path)).parts
        folders.setdefault(parts[:-1] if parts[-1] == "bundle" and len(parts) > 2 else parts, path)
    taken, lengths = set(taken), dict.fromkeys(folders, 1)
    while True:
        names = {parts: "/".join(parts[-length:]) for parts, length in lengths.items()}
        used = Counter(names.values())
        longer = [p for p, name in names.items() if (name in taken or used[name] > 1) and lengths[p] < len(p)]
        if not longer:
            return {name: folders[parts] for parts, name in names.items()}
        for parts in longer:
            lengths[parts] += 1


def usable(path: Path, env: DecisionEnv) -> Controller:
    """Return the controller of a bundle that was trained for a world's models.

    Raises:
        BundleError: it cannot be used, or was trained with others.
    """
    bundle = Bundle.load(path)
    bundle.require(env.deployment())
    return bundle.controller(env.schema)


def named_controllers(names: Sequence[str], env: DecisionEnv) -> dict[str, Controller]:
    """Return controllers by the names that they were given; a bundle's folder is for --bundle, which names it by its run."""
    for name in names:
        if os.path.isdir(name):
            raise SettingError(f"--controller {shown(name)} is a folder; name a bundle with --bundle")
        if name.endswith(SUFFIX):
            RuleFile.load(name).require(env.deployment())
    return {name: controller(name, env.schema) for name in names}
