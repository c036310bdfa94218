"""Controllers by name: named settings of a schema, rules, bandits, what was fitted and learnt, and a user's own.

What does not live here: the controllers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agents.bandits import EXP3Spec, LinUCB, UCBSpec
from agents.base import Controller
from agents.bundle import Bundle
from agents.own import is_own, own_controller
from agents.rule_file import SUFFIX, RuleFile
from agents.rules import FixedRule, RandomRule, Rejection, StagedRule, level_rule, until_unsure
from agents.rules.hat import SYSTEM, HatRule
from agents.rules.published import REJECTION, STAGES, UNSURE
from runtime.settings import shown
from synera_env import Schema, SettingError


def rules(schema: Schema) -> dict[str, Controller]:
    """Every rule of a schema that needs no figures, by its name."""
    fixed: dict[str, Controller] = {name: FixedRule(knobs, schema) for name, knobs in schema.presets.items()}
    own: dict[str, Controller] = {"hat-rule": HatRule(schema)} if schema.system == SYSTEM else {}
    return fixed | own | {"random": RandomRule(schema)}


def _thresholds(text: str) -> tuple[float, ...]:
    return tuple(_number("staged", part) for part in text.split("/"))


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SettingError(f"{name}={shown(text)} must be a number") from None


PUBLISHED: dict[str, Callable[[Schema, str], Controller]] = {
    "until-unsure": lambda schema, text: until_unsure(schema, _number("until-unsure", text) if text else UNSURE),
    "staged": lambda schema, text: StagedRule(schema, _thresholds(text) if text else STAGES),
    "rejection": lambda schema, text: Rejection(_number("rejection", text) if text else REJECTION).controller(schema),
}
"""Rules of the literature by name, made of a schema and what stands behind `=`, if anything."""
BANDITS: dict[str, Callable[[Schema], Controller]] = {"ucbspec": UCBSpec.new, "exp3spec": EXP3Spec.new, "linucb": LinUCB.new}
"""Bandits that know nothing yet, by name."""


def controller(name: str, schema: Schema) -> Controller:
    """Return a controller.

    Args:
        name: a rule (such as `never`, `always`, `threshold`, `random`), one of :data:`PUBLISHED` (such as `staged`, or
            `staged=0.8/0.9/1.0`) or of :data:`BANDITS`, levels of a draft (such as `margin=0.5`; see
            :func:`agents.rules.level_rule`), the folder of a bundle, the file of a rule (NAME.json), or MODULE:CLASS, a class
            of the user's own.
        schema: what it will see and set.

    Raises:
        BundleError: the bundle is missing, damaged, or of another schema (such as another number of exits).
        TraceError: the file of a rule is missing or damaged.
        SettingError: no such rule and no such folder, a level that makes no sense, a rule that was fitted for another schema, or
            a class that cannot be used.
    """
    known = rules(schema)
    head, equals, argument = name.partition("=")
    if name in known:
        return known[name]
    if _is_folder(name):
        return Bundle.load(name).controller(schema)
    if name.endswith(SUFFIX):
        return RuleFile.load(name).controller(schema)
    if name in BANDITS:
        return BANDITS[name](schema)
    if head in PUBLISHED and bool(equals) == bool(argument):
        return PUBLISHED[head](schema, argument)
    if equals:
        return level_rule(name, schema)
    if is_own(name):
        return own_controller(name, schema)
    raise SettingError(
        f"no controller {shown(name)}: it is neither a rule ({', '.join((*known, *PUBLISHED, *BANDITS))}) nor a level (such as "
        "margin=0.5) nor the folder of a bundle nor the file of a rule (NAME.json) nor a class of yours (MODULE:CLASS)"
    )


def _is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:  # a name that is longer than any folder's
        return False
