"""Which prompts are recorded, by split: those of the bundled tasks, and those of a user's own file.

What does not live here: the tasks (tinyworld.py), scores and models. Needs no more than numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.errors import SettingError
from traces.errors import TraceError
from traces.schemas import read_file
from traces.tasks import tinyworld

_LONGEST = 1_000_000  # characters of a prompt: no context takes more
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
        TraceError: the file is missing, cannot be read, or is not text in UTF-8.
        SettingError: fewer than three distinct prompts, or a line that is too long for one.
    """
    content = read_file(path, f"no prompts at {path}; write a text file there, one prompt a line")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        above = content[: error.start].count(b"\n")
        raise TraceError(f"{path} is not text in UTF-8: line {above + 1} has the byte 0x{content[error.start]:02x}") from None
    stripped = [line.strip() for line in text.split("\n")]
    for number, line in enumerate(stripped, 1):
        if len(line) > _LONGEST:
            raise SettingError(f"{path}: line {number} has {len(line)} characters, and a prompt at most {_LONGEST}")
    lines = list(dict.fromkeys(line for line in stripped if line))
    if len(lines) < 3:
        raise SettingError(
            f"{path} holds {len(lines)} distinct prompts; write at least 3, one a line: train, validation and test need one each"
        )
    held = max(1, round(_HELD_OUT * len(lines)))
    order = np.random.default_rng(0).permutation(len(lines))
    parts = {"test": order[:held], "validation": order[held : 2 * held], "train": order[2 * held :]}
    return {split: [Prompt(lines[i], "custom") for i in sorted(chosen)] for split, chosen in parts.items()}
