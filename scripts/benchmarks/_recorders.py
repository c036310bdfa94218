"""Recorders of this project and of an earlier state of it, each in a process of its own, given the same prompts.

What does not live here: what such a process does (_recording.py), and what is measured (record.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from runtime.errors import SettingError
from runtime.settings import shown
from scripts.benchmarks import _recording
from traces.tasks.splits import Prompt

ROOT = Path(__file__).parents[2]
_REPLACED = "traces/synera/record_builder.py"
"""A file of the recorder before this one, gone since."""


@dataclass(frozen=True)
class Task:
    """What every recorder is given."""

    pair: Path
    prompts: Sequence[Prompt]
    max_new_tokens: int
    node_budget: int
    threads: int

    @property
    def line(self) -> str:
        """As a process reads it."""
        stated = {"pair": str(self.pair.absolute()), "prompts": [(p.text, p.kind) for p in self.prompts]}
        return json.dumps(
            {**stated, "max_new_tokens": self.max_new_tokens, "node_budget": self.node_budget, "threads": self.threads}
        )


class RecorderProcess:
    """A recorder in a process of its own."""

    def __init__(self, root: Path, task: Task, name: str) -> None:
        self._name = name
        self._process = subprocess.Popen(
            [sys.executable, "-P", _recording.__file__],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask(task.line)
        self.nodes = 0

    def __call__(self) -> None:
        """Record all prompts.

        Raises:
            SettingError: it cannot.
        """
        self._ask("")
        assert self._process.stdout is not None
        answered = self._process.stdout.readline()
        if not answered:
            raise SettingError(f"{self._name} could not record; its own message stands above")
        self.nodes = int(answered)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the answer that does not come tells
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()


@contextmanager
def recorder_at(root: Path, task: Task, name: str) -> Iterator[RecorderProcess]:
    """Start the recorder of a folder, and end it."""
    recorder = RecorderProcess(root, task, name)
    try:
        yield recorder
    finally:
        recorder.close()


@dataclass(frozen=True)
class State:
    """The project as it was."""

    root: Path
    name: str


@contextmanager
def before(named: str) -> Iterator[State | None]:
    """Give an earlier state of the project; None where nothing is named and no history is here.

    Args:
        named: a folder or a commit; "" takes the last commit before this recorder.

    Raises:
        SettingError: neither a folder with a recorder nor a commit.
    """
    if named and os.path.isfile(os.path.join(named, "traces", "synera", "record.py")):
        yield State(Path(named).absolute(), named)
        return
    commit = _git("rev-parse", "--verify", "--quiet", f"{named}^{{commit}}") if named else _last_before()
    archive = commit and _git("archive", "--format=tar", commit.decode().strip())
    if not archive and named:
        raise SettingError(
            f"before={shown(named)} is no commit of {ROOT} and no folder of this project with its traces/synera/record.py"
        )
    if not commit or not archive:
        yield None
        return
    with TemporaryDirectory() as folder, tarfile.open(fileobj=BytesIO(archive)) as packed:
        packed.extractall(folder, filter="data")
        yield State(Path(folder), f"commit {commit.decode()[:8]}")


def _last_before() -> bytes:
    """The commit before the one that replaced the recorder; empty where that is not known."""
    replaced = _git("log", "-1", "--format=%H", "--diff-filter=D", "--", _REPLACED)
    return replaced and _git("rev-parse", "--verify", "--quiet", f"{replaced.decode().strip()}^")


def _git(*arguments: str) -> bytes:
    """What git says of this repository; empty where it cannot, or is not there."""
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True).stdout
    except (OSError, ValueError, subprocess.CalledProcessError):  # ValueError: a name that no program can be given
        return b""
