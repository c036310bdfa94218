"""The folder of a training: its name, how it comes about, and what it says of how it was made.

What does not live here: what is written into it (judge.py, checkpoint.py, run.py).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from agents.bundle import NAME_PATTERN
from runtime.settings import shown
from synera_env import DecisionEnv, SettingError, replacing_folder

CHECKPOINT = "checkpoint.safetensors"
"""In a run's folder: what a training goes on from."""
CONFIG, LOG = "config.json", "validation.jsonl"
_PART = ".part-"


def check_run_name(name: str) -> None:
    """Do nothing for a name that a run can have.

    Raises:
        SettingError: it has another character than letters, digits and `._-`, begins with a dot, or is too long.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise SettingError(
            f"name={shown(name)} must be letters, digits and ._-, not begin with a dot, and have 1 to 80 characters"
        )


def check_same_models(train: DecisionEnv, validation: DecisionEnv) -> None:
    """A bundle states what it was validated with; that must be what it was trained with.

    Raises:
        SettingError: it is not.
    """
    there = validation.deployment().fingerprints
    for what, here in train.deployment().fingerprints.items():
        if there.get(what, here) != here:
            raise SettingError(
                f"training and validation are of different models: the {what} {here} there, {there[what]} here; record both with one pair"
            )


@contextmanager
def run_folder(folder: Path, resume: Path | None = None) -> Iterator[Path]:
    """Write a run beside `folder`, as NAME.part-*; it takes its place once the block is done, and stays if that fails.

    Args:
        folder: of the run.
        resume: checkpoint to go on from; where it lies in an unfinished folder of this run, that one is gone on with.

    Raises:
        TraceError: the folder cannot be written.
    """
    part = None if resume is None or not is_part_of(resume.parent, folder) else resume.parent
    with replacing_folder(folder, keep=True, part=part) as unfinished:
        yield unfinished


def is_part_of(part: Path, folder: Path) -> bool:
    """Whether a folder is an unfinished one of a run."""
    return part.parent.absolute() == folder.parent.absolute() and part.name.startswith(f"{folder.name}{_PART}")


def unfinished(path: Path) -> tuple[Path, Path]:
    """Return the run's folder and the checkpoint of an unfinished one, or of a file in it.

    Raises:
        SettingError: it is none.
    """
    part = path.parent if os.path.isfile(path) else path
    name, found, _ = part.name.rpartition(_PART)
    where = shown(str(path), 200)[1:-1]
    if not found or not os.path.isdir(part):
        raise SettingError(f"no unfinished training at {where}; one is a folder NAME{_PART}* beside the finished ones")
    if not (part / CHECKPOINT).is_file():
        raise SettingError(f"{where} has no {CHECKPOINT}, as its training ended before its first validation; train anew")
    return part.with_name(name), part / CHECKPOINT


def provenance(
    algorithm: str, config: Mapping[str, Any], train: DecisionEnv, validation: DecisionEnv, packages: Sequence[str]
) -> dict[str, Any]:
    """Return what a run's `config.json`, TensorBoard and bundle say of how it is made."""
    return {
        "algorithm": algorithm,
        "system": train.schema.system,
        "config": dict(config),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "train": train.provenance(),
        "validation": validation.provenance(),
        "versions": {name: version(name) for name in ("synera-env", *packages, "torch", "numpy")},
    }
