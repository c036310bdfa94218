"""What a training is given beside its recipe: who watches it, what it goes on from or begins with, whom it is to beat.

What does not live here: the recipe (recipe.py), and the training (run.py, agents/counterfactual/run.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from agents.gaps import Bounds
from agents.learning.imitation import Beginning


@dataclass(frozen=True)
class Around:
    """What a training is given beside its recipe; all of it may be left out."""

    on_step: Callable[[int], object] = lambda steps: None
    """Called with the steps so far, after each of all environments."""
    callback: BaseCallback | None = None
    """Watches an agent of stable-baselines3 besides."""
    on_start: Callable[[Path], object] = lambda unfinished: None
    """Called with the unfinished folder."""
    on_judged: Callable[[int, Mapping[str, Any]], object] = lambda steps, found: None
    """Called with the steps and what was found, after each validation; what it raises ends the training."""
    resume: Path | None = None
    """A checkpoint to go on from, of a training by the same recipe in the same world."""
    beginning: Beginning | None = None
    """What the first weights are fitted to or taken from; of no account where a training is gone on with."""
    against: Sequence[str] = ()
    """Controllers that count as rules to beat, beside those that need no figures."""
    bounds: Bounds | None = None
    """Of the answers of its validation, for TensorBoard to show which share of the way to them is gone."""
