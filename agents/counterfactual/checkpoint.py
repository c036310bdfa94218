"""What a counterfactual training writes down to go on from.

What does not live here: the file (agents/learning/checkpoint.py), and when it is written (run.py).
"""

from __future__ import annotations

from pathlib import Path

from agents.counterfactual.learning import Learner
from agents.learning.checkpoint import (
    Best,
    Checkpoint,
    moments,
    part,
    read_checkpoint,
    require_same,
    restore_moments,
    write_checkpoint,
)
from agents.learning.recipe import Recipe


def save(path: Path, best: Best, learner: Learner, recipe: Recipe) -> None:
    """Write weights, the optimiser's moments, random numbers, and the best so far."""
    tensors = {f"net.{name}": value for name, value in learner.net.state_dict().items()}
    notes = {"config": recipe.as_stated(), "rng": learner.rng.bit_generator.state}
    write_checkpoint(path, tensors | moments("adam.", learner.optimizer), best, notes)


def load(path: Path, learner: Learner, recipe: Recipe) -> Best:
    """Bring a learner to where a file says that its training was.

    Raises:
        SettingError: the file is missing or damaged, or of a training that was set up otherwise.
    """

    def take_up(found: Checkpoint) -> Best:
        require_same("training", found.notes["config"], recipe.as_stated())
        learner.net.load_state_dict(part(found.tensors, "net."))
        restore_moments(learner.optimizer, part(found.tensors, "adam."))
        learner.rng.bit_generator.state = found.notes["rng"]
        return found.best()

    return read_checkpoint(path, take_up)
