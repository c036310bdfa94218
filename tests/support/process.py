"""A whole device around a real verifier: the session with a drafter that needs no model, and a served process."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cloud import log, server
from cloud.config import ServerConfig
from cloud.engine.registry import load_here
from cloud.server import running_server
from runtime.clock import RealClock
from runtime.model.split import Split
from runtime.sampling import Sampling
from runtime.session import Limits
from runtime.synera.chunk import DraftToken
from runtime.synera.knobs import Knobs
from runtime.synera.lens import Lens
from runtime.synera.session import Session, Verifier
from scripts import __main__ as synera
from traces.profile import CloudProfile

ROOT = Path(__file__).resolve().parents[2]
ALWAYS = Knobs(confidence_threshold=1.0, offload_budget=1.0, draft_length=4)
"""Every chunk goes to the cloud."""


class GuessingDrafter:
    """Drafts the LLM's own answer, wrong at random places."""

    def __init__(self, truth: Sequence[int], seed: int = 0) -> None:
        self._truth, self._rng = list(truth), random.Random(seed)
        self._prefix: list[int] = []
        self._prompt = 0

    def begin(self, prompt: Sequence[int], sampling: Sampling | None) -> None:
        self._prefix, self._prompt = list(prompt), len(prompt)

    def next(self, exit_index: int, exit_margin: float) -> DraftToken:
        token = self._truth[len(self._prefix) - self._prompt] if self._rng.random() < 0.8 else self._rng.randrange(3, 700)
        self._prefix.append(token)
        return DraftToken(token, 0, 0.5, 0.1, 1.0, 0, np.zeros(16, np.float32))

    def rollback(self, length: int) -> None:
        del self._prefix[length:]

    def push(self, token: int) -> None:
        self._prefix.append(token)


class NoEnergy:
    def joules(self, busy_seconds: float, wait_seconds: float, radio_bytes: int) -> float:
        return 0.0


def device(verifier: Verifier, truth: Sequence[int], eos_ids: frozenset[int] = frozenset()) -> Session:
    """A session that answers with as many tokens as `truth` has."""
    lens = Lens.neutral(1, 4)
    limits = Limits(max_new_tokens=len(truth), eos_ids=eos_ids, context=256)
    return Session(GuessingDrafter(truth), verifier, RealClock(), NoEnergy(), lens, limits)


@dataclass
class Served:
    """A verifier in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    line: str
    """What it said when it was ready."""
    hint: str
    """And then."""

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "scripts.serve", *map(str, arguments)]


@contextmanager
def served(folder: Path, *arguments: object) -> Iterator[Served]:
    process = subprocess.Popen(
        command("--model", folder, "--port", 0, "--threads", 1, *arguments),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"listening on 127\.0\.0\.1:(\d+) ", line)
        assert found, (line, process.stderr.read() if process.stderr else "")
        yield Served(process, int(found[1]), line, process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


def why_not_served(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The line that `synera serve` ends with where it cannot serve; in this process, with the engine in it, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "configure", lambda level, form: None)
        patch.setattr(server, "load_engine", load_here)
        patch.setattr(sys, "argv", ["synera", "serve", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            synera.main()
    said = capsys.readouterr()
    assert (left.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    return said.err


@contextmanager
def verifier_here(
    *, model: Path, pace: Path | None, threads: int = 1, log: Path | None = None, options: Sequence[str] = ()
) -> Iterator[Any]:
    """Stands in for a verifier's process where a test is of what is done with it: as the real one, but on a thread of this one.

    Of the options of `synera serve` it takes `--split` alone.
    """
    paced = None if pace is None else CloudProfile.load(pace)
    split = Split.parse(options[options.index("--split") + 1]) if options else None
    with running_server(ServerConfig(model=model, pace=paced, threads=threads, split=split)) as port:
        yield SimpleNamespace(target=f"127.0.0.1:{port}", check=lambda: None)
