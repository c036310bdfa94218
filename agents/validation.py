"""What the replay promises, held against what the live runtime does: over controllers, and over devices that share a verifier.

What does not live here: the comparison of one controller's answers (agreement.py) and how it is shown (scripts/).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from agents.agreement import Agreement, agreement
from agents.base import Controller
from agents.evaluation import Answered, PlannedAnswer, answer
from agents.fleet import run_fleet
from agents.rules import FixedRule
from synera_env import DecisionEnv, Schema

STOP_AND_WAIT = "stop-and-wait"
"""Ends the name of a rule whose device idles while a check is in flight."""


@dataclass(frozen=True)
class Validated:
    """One controller, on so many devices at a time."""

    controller: str
    devices: int
    agreement: Agreement
    live_seconds: tuple[float, ...]
    """Of each answer, in the plan's order."""
    replay_seconds: tuple[float, ...]
    """The replay's, of the same answers."""


def both_ways(schema: Schema) -> dict[str, Controller]:
    """Every named rule; one that drafts ahead also with that switched off."""
    found: dict[str, Controller] = {}
    for name, knobs in schema.presets.items():
        found[name] = FixedRule(knobs, schema)
        if knobs.draft_ahead < 1.0 and knobs.offload_budget > 0.0:
            found[f"{name}, {STOP_AND_WAIT}"] = FixedRule(replace(knobs, draft_ahead=1.0), schema)
    return found


def validate(
    make_live: Callable[[], DecisionEnv],
    replay: DecisionEnv,
    controllers: Mapping[str, Controller],
    plan: Sequence[PlannedAnswer],
    devices: int = 1,
    on_answer: Callable[[], None] = lambda: None,
) -> list[Validated]:
    """Answer a plan live and in replay with each controller.

    Args:
        make_live: makes a device's live environment; closed here.
        replay: an environment over the graphs of the same prompts.
        controllers: by name; thread-safe where there are several devices.
        plan: the answers.
        devices: live devices at a time, which share what `make_live` connects them to.
        on_answer: called after each live answer.

    Raises:
        SettingError: fewer than one device.
        SyneraError: as the environments raise.
    """
    found = []
    for name, each in controllers.items():
        live = run_fleet(make_live, each, plan, devices, on_answer)
        replayed = [answer(replay, each, planned) for planned in plan]
        both = agreement(replay, live, replayed)
        found.append(Validated(name, devices, both, *_seconds(live, replayed)))
    return found


def _seconds(live: Sequence[Answered], replayed: Sequence[Answered]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of the answers that both finished."""
    both = [(a.metrics.seconds, b.metrics.seconds) for a, b in zip(live, replayed, strict=True) if a.metrics and b.metrics]
    return tuple(a for a, _ in both), tuple(b for _, b in both)
