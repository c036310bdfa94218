"""The trainings of a sweep: which ones there are, how far each has come, and one of them in a process of its own.

What does not live here: the arguments, and what is printed (sweep.py).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from agents.learning.checkpoint import difference
from agents.learning.recipe import Recipe
from agents.learning.run_folder import CHECKPOINT, CONFIG, LOG, is_part_of
from runtime.errors import SettingError
from runtime.settings import shown
from scripts import train
from scripts._cli import next_step, prepare
from scripts._ending import ending

_LAST_LINES = 4


@dataclass(frozen=True)
class Part:
    """One training."""

    policy: str
    """What it is a training of; the seeds of a policy share it."""
    arguments: train.Arguments
    """As `synera train` takes them."""
    resume: Path | None = None
    """Its unfinished folder, to be gone on with."""

    @property
    def name(self) -> str:
        """Of the run."""
        return str(self.arguments.name)

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path("runs") / self.name

    @property
    def log(self) -> Path:
        """What it printed."""
        return self.folder.with_name(f"{self.name}.log")

    def command(self) -> train.Arguments:
        """Return what is done: a training from its beginning, or from where it was interrupted."""
        given = self.arguments
        if self.resume is None:
            return given
        return train.Arguments(
            **given.given(),  # type: ignore[arg-type]
            resume=self.resume,
            against=given.against,
            save_graphs=given.save_graphs,
        )


class Variant(NamedTuple):
    """Settings of an agent that differ from the others' of a sweep."""

    label: str
    """Of what differs; empty where nothing does."""
    settings: Path | None
    set: tuple[str, ...]


def variants(files: Sequence[Path], changes: Sequence[str]) -> Iterator[Variant]:
    """Yield each file of settings with each combination of changes.

    Args:
        files: of settings; none stands for those of the package.
        changes: NAME=VALUE, or NAME=VALUE,VALUE,... for each of the values.
    """
    grid = []
    for change in changes:
        name, equals, values = change.partition("=")
        grid.append([f"{name}{equals}{value}" for value in values.split(",")])
    every: Sequence[Path | None] = files or [None]
    for file in every:
        for chosen in product(*grid):
            differing = [each for each, of in zip(chosen, grid, strict=True) if len(of) > 1]
            labels = [file.stem] if file is not None and len(files) > 1 else []
            labels += [re.sub(r"[^\w.]", "", each, flags=re.ASCII) for each in differing]
            yield Variant("-".join(labels), file, chosen)


def standing(part: Part, recipe: Recipe, world: Mapping[str, Any]) -> Part | None:
    """Return a training as it is to be done: None where that is finished, and where it was interrupted with what to go on from.

    Args:
        part: the training.
        recipe: of it.
        world: what a run says of where it is trained, and what it begins with.

    Raises:
        SettingError: a finished run of its name was trained otherwise.
    """
    wanted = {"config": recipe.as_stated(), **world}
    if part.folder.exists():
        stated = _stated(part.folder)
        differs = difference(stated, wanted) if (part.folder / "bundle").is_dir() else "no bundle"
        if differs:
            raise SettingError(f"{part.folder} is another run, with {differs}; name another sweep with --name, or move it")
        return None
    for unfinished in _unfinished(part.folder):
        if (unfinished / CHECKPOINT).is_file() and difference(_stated(unfinished), wanted) is None:
            return replace(part, resume=unfinished)
    return part


def outcome(part: Part) -> dict[str, Any]:
    """Return what a finished run says of itself."""
    return _stated(part.folder)


def reached(part: Part) -> tuple[int, float | None]:
    """Return the steps and the reward of the last validation of a training that is under way; 0 before the first."""
    for unfinished in _unfinished(part.folder):
        try:
            *_, last = (unfinished / LOG).read_text().splitlines()
            found = json.loads(last)
            return int(found["steps"]), found.get("reward")
        except (OSError, ValueError, KeyError, TypeError):  # not yet there, or about to be written
            return 0, None
    return 0, None


def last_lines(part: Part) -> list[str]:
    """Return the end of what a training printed."""
    try:
        lines = part.log.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [line for line in lines if line.strip()][-_LAST_LINES:]


def trained(part: Part) -> int:
    """Train, in this process, which does nothing else; return the exit code that `synera train` would have."""
    arguments = part.command()
    words = {name: value for name, value in vars(arguments).items() if name != "set"}
    changes = [word for change in arguments.set for word in ("--set", change)]
    sys.argv = ["synera train", *shlex.split(next_step("train", **words))[2:], *changes]
    with part.log.open("a", buffering=1, errors="backslashreplace") as log, redirect_stdout(log), redirect_stderr(log):
        print(shlex.join(["synera", "train", *sys.argv[1:]]))
        try:
            with ending():
                prepare()
                train.main(arguments)
        except SystemExit as left:
            return int(left.code or 0)
        except Exception:
            traceback.print_exc()
            return 1
    return 0


def _unfinished(folder: Path) -> list[Path]:
    """The unfinished folders of a run, the newest first."""
    found = [each for each in folder.parent.glob(f"{folder.name}.part-*") if is_part_of(each, folder) and each.is_dir()]
    return sorted(found, key=os.path.getmtime, reverse=True)


def _stated(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / CONFIG).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def label(*parts: str | None) -> str:
    """Join the parts of a name that are there."""
    return "-".join(filter(None, parts))


def check_distinct(parts: Sequence[Part]) -> None:
    """Refuse a sweep of which two trainings would be written to one place.

    Raises:
        SettingError: two share a name.
    """
    names = [part.name for part in parts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SettingError(
            f"two trainings would be named {shown(twice[0])}; let their agents, settings or values differ in name"
        )
