"""A user's own controller, as MODULE:CLASS: imported because the user names it, and never because a file does.

What does not live here: controllers by other names (registry.py).
"""

from __future__ import annotations

import re

from agents.base import Controller
from runtime.errors import SettingError
from runtime.settings import imported, plain, shown
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
    made = imported(f"controller {shown(name)}", name, "class")
    try:
        controller = made(schema)
    except Exception as error:
        raise SettingError(
            f"controller {shown(name)} cannot be made of a schema: {type(error).__name__}: {plain(str(error))}"
        ) from error
    if not callable(getattr(controller, "predict", None)):
        raise SettingError(
            f"controller {shown(name)} has no predict(observation, state, episode_start, deterministic), which agents.base.Controller asks for"
        )
    return controller
