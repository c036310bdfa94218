"""Which prompts are recorded, by split: those of the bundled tasks, and those of a user's own file.

What does not live here: the tasks (tinyworld.py), scores and models. Needs no more than numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.errors import SettingError
from traces.tasks import tinyworld

_HELD_OUT = 0.15  # of a file's prompts, for validation and for the test each


@dataclass(frozen=True)
class Prompt:
    """One prompt to record."""

    text: str
    kind: str


def bundled_prompts(split: str, per_kind: int, seed: int = 0) -> list[Prompt]:
    """Return prompts of the bundled tasks, the same number of each kind."""
    return [Prompt(t.prompt, t.kind) for kind in tinyworld.KINDS for t in tinyworld.tasks(kind, split, per_kind, seed)]


def own_prompts(path: Path) -> dict[str, list[Prompt]]:
    """Divide the distinct lines of a file: 70 % train, 15 % validation, 15 % test, at least one each.

    The same file always gives the same division; within a split, prompts keep the file's order.

    Raises:
        SettingError: fewer than three distinct prompts.
        OSError: the file cannot be read.
    """
    lines = list(dict.fromkeys(line.strip() for line in path.read_text().splitlines() if line.strip()))
    if len(lines) < 3:
        raise SettingError(
            f"{path} holds {len(lines)} distinct prompts; write at least 3, one a line: train, validation and test need one each"
        )
    held = max(1, round(_HELD_OUT * len(lines)))
    order = np.random.default_rng(0).permutation(len(lines))
    parts = {"test": order[:held], "validation": order[held : 2 * held], "train": order[2 * held :]}
    return {split: [Prompt(lines[i], "custom") for i in sorted(chosen)] for split, chosen in parts.items()}
