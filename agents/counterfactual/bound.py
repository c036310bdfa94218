"""The clairvoyant bound: what the best course of each answer is worth, all outcomes known, by prompt and scenario.

What does not live here: the pass that finds it (passes.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agents.counterfactual.batch import Batch
from synera_env.synera.decisions.scenarios import Scenario, Scenarios
from synera_env.synera.decisions.sight import Sight


def clairvoyant(sight: Sight, scenarios: Sequence[Scenario]) -> NDArray[np.float64]:
    """Return the bound, [scenarios, prompts]; NaN for a prompt that has no states.

    It is the best of all that the process can do (see :class:`synera_env.synera.decisions.process.DecisionProcess` for what that leaves out), so
    of a graph with holes the best that is known: a bound of the closed graph from below.
    """
    process = sight.work.process
    found = np.full((len(scenarios), len(process.graphs)), np.nan)
    for row, each in zip(found, scenarios, strict=True):
        same = Scenarios.constant(each, len(process.startable))
        row[process.startable], _ = Batch.of(sight.work, process.startable, same).clairvoyant()
    return found
