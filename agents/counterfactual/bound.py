"""The clairvoyant bound: what the best course of each answer is worth, all outcomes known, by prompt and scenario.

What does not live here: the pass that finds it (passes.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.counterfactual.batch import Batch
from agents.counterfactual.scenarios import Scenarios
from agents.counterfactual.sight import Sight
from runtime.errors import SettingError
from runtime.settings import above, shown
from synera_env import Preference
from traces.links.trace import SERIES, LinkTrace


@dataclass(frozen=True)
class Scenario:
    """One in which all answers are given."""

    link: LinkTrace
    """One that stands still."""
    preference: Preference = Preference()  # noqa: RUF009 - frozen
    waits: float = 1.0
    """Times the waits of the cloud's profile."""

    def __post_init__(self) -> None:
        above("waits", self.waits, 0.0)
        moving = [name for name in SERIES if np.ptp(getattr(self.link, name)) > 0]
        if moving:
            raise SettingError(
                f"link {shown(self.link.name)} changes its {moving[0]}: the bound is exact only where a link stands still; "
                "give one of its states as a constant link"
            )


def clairvoyant(sight: Sight, scenarios: Sequence[Scenario]) -> NDArray[np.float64]:
    """Return the bound, [scenarios, prompts]; NaN for a prompt that has no states.

    It is the best of all that the process can do (see :class:`agents.counterfactual.process.DecisionProcess` for what that leaves out), so
    of a graph with holes the best that is known: a bound of the closed graph from below.
    """
    process = sight.work.process
    found = np.full((len(scenarios), len(process.graphs)), np.nan)
    for row, each in zip(found, scenarios, strict=True):
        same = Scenarios.constant(each.link, each.preference, len(process.startable), each.waits)
        row[process.startable], _ = Batch.of(sight.work, process.startable, same).clairvoyant()
    return found
