"""A user's own controller, as MODULE:CLASS: imported because the user names it, and never because a file does.

What does not live here: controllers by other names (registry.py).
"""

from __future__ import annotations

import os
import re
import sys
from importlib import import_module

from agents.base import Controller
from runtime.errors import SettingError
from runtime.settings import plain, shown
from synera_env import Schema

_NAMED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_own(name: str) -> bool:
    """Say whether a name reads MODULE:CLASS; nothing is imported."""
    return _NAMED.fullmatch(name) is not None


def own_controller(name: str, schema: Schema) -> Controller:
    """Import a class that the user named, also from the folder that the user works in, and make one of it.

    Args:
        name: MODULE:CLASS; the class, or any callable, is called with the schema and returns an :class:`agents.base.Controller`.
        schema: what it will see and set.

    Raises:
        SettingError: it cannot be imported, is not there, fails, or makes something that does not `predict`.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that it hides nothing that is installed
    try:
        made = getattr(import_module(module), attribute, None)
    except Exception as error:
        raise SettingError(f"controller {shown(name)}: {module} cannot be imported: {_said(error)}") from error
    if not callable(made):
        raise SettingError(f"controller {shown(name)}: {module} has no class {attribute}")
    try:
        controller = made(schema)
    except Exception as error:
        raise SettingError(f"controller {shown(name)} cannot be made of a schema: {_said(error)}") from error
    if not callable(getattr(controller, "predict", None)):
        raise SettingError(
            f"controller {shown(name)} has no predict(observation, state, episode_start, deterministic), which agents.base.Controller asks for"
        )
    return controller


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {plain(str(error))}"
