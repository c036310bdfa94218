"""Controllers by name: the rules, and any bundle by its folder."""

from __future__ import annotations

from pathlib import Path

from agents.base import Controller
from agents.bundle import BundleError, OnnxController
from agents.rules import ALWAYS, DEFAULT_FIXED, NEVER, FixedRule, RandomRule
from synera_env import Knobs
from synera_env.synera.schema import Encoder

RULES: dict[str, Knobs] = {"never": NEVER, "always": ALWAYS, "threshold": DEFAULT_FIXED}
"""Rules that set the same knobs at every chunk."""


def controller(name: str, encoder: Encoder) -> Controller:
    """Return a controller.

    Args:
        name: `never`, `always`, `threshold`, `random`, or the folder of a bundle.
        encoder: of the environment that it will act in.

    Raises:
        BundleError: the bundle is missing, damaged, or of another schema (such as another number of exits).
        ValueError: no such rule and no such folder.
    """
    if name in RULES:
        return FixedRule(RULES[name], encoder)
    if name == "random":
        return RandomRule(encoder)
    if not Path(name).exists():
        raise ValueError(
            f"no controller {name!r}: it is neither a rule ({', '.join([*RULES, 'random'])}) nor the folder of a bundle"
        )
    loaded = OnnxController.load(name)
    if loaded.meta.schema_hash != encoder.schema_hash:
        raise BundleError(
            f"bundle {name} was made for schema {loaded.meta.schema_hash} ({loaded.meta.exits} exits), "
            f"it would act in {encoder.schema_hash} ({encoder.exits} exits); train one on these graphs"
        )
    return loaded
