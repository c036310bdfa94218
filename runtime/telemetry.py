"""What a device writes down of its live answers: one JSON line an event, in a file that never costs an answer.

A line is one of the dataclasses below; a step's line is made of the fields of its record, whatever these
are. What does not live here: the reader (synera_env/telemetry.py), and who decides that anything is written.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_origin, get_type_hints

import numpy as np

from runtime.session import StepRecord
from runtime.settings import within

FORMAT_VERSION = 1
"""Of the lines. A new field with a default needs no new version: where a line lacks it, the reader takes the default."""
MOST_BYTES = 64 * 2**20
"""Of one file of lines; then it becomes the file before, in the place of the one before that. Some 5,000 answers."""
NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""How numbers are written that JSON does not have: as these strings."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Begun:
    """An answer begins."""

    event: Literal["begin"] = "begin"
    answer: int
    """Its number in the run, from 1; the lines of answers that are given side by side may lie interleaved."""
    run: str
    """Id of the run: random, the same for all that one process writes to one place."""
    time: str
    """UTC, ISO 8601; of this machine's clock."""
    system: str
    schema_hash: str
    controller: str
    preference: Mapping[str, float]
    """What the controller was told to value, by weight."""
    fingerprints: Mapping[str, str]
    """Of the models, tokenizers, tables and the policy that it was answered with, by what they are."""
    seed: int
    link: str
    """Name of the emulated link, or `real`."""
    prompt_tokens: int
    prompt_sha256: str
    """Of the prompt's text; tells which answers are to the same prompt."""
    prompt: str | None = None
    """The text, only where the user asked for it. An answer's tokens are always here: whoever reads the file reads it."""
    first_token_weight: float = 1.0
    """Of HAT: how many times a second before the first token counts in the reward, 0..1000."""
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, kw_only=True)
class Settled:
    """A step of an answer is settled."""

    event: Literal["step"] = "step"
    answer: int
    number: int
    """Of the step in the answer, from 1; where one is missing, its line was lost."""
    record: StepRecord
    """Of the system's own kind."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """An answer is done, or given up."""

    event: Literal["end"] = "end"
    answer: int
    steps: int
    """That it took."""
    quality: float = math.nan
    """Task score in 0..1; NaN where nobody can tell."""
    metrics: Mapping[str, float]
    """As `synera_env.metrics` defines them, for readers without it; none where the answer was given up."""
    error: str | None = None
    """Why it was given up: the name of the exception, as its message may quote the prompt."""

    def __post_init__(self) -> None:
        if not math.isnan(self.quality):
            within("quality", self.quality, 0.0, 1.0)


Event = Begun | Settled | Ended


def prompt_hash(prompt: str) -> str:
    """Return the SHA-256 of a prompt's text, hexadecimal."""
    return hashlib.sha256(_text(prompt).encode()).hexdigest()


def line(event: Event) -> bytes:
    """Return the line of an event: ASCII, one JSON object, no number in it that JSON does not have.

    Raises:
        TypeError: a field is of a kind that has no plain form.
    """
    return json.dumps(plain(event), separators=(",", ":"), allow_nan=False).encode() + b"\n"


def plain(value: Any) -> Any:
    """Return a value as JSON has it: dataclasses as objects of their :func:`written` fields.

    Raises:
        TypeError: it is of a kind that has no plain form.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else next(n for n, v in NOT_FINITE.items() if v == value or value != value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    if isinstance(value, Mapping):
        return {_text(key): plain(each) for key, each in value.items()}
    if is_dataclass(value):
        return {name: plain(getattr(value, name)) for name in written(type(value))}  # type: ignore[arg-type]
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


@cache
def written(kind: Any) -> tuple[str, ...]:
    """Return the fields of a dataclass that are written: all but arrays, and those of any type, which hold HAT's states.

    Arrays (a token's sketch) are what a network is shown. No metric needs them, they would make a line nearly twice
    as long, and a hidden state tells more of a prompt than its owner may think.
    """
    hints = get_type_hints(kind)
    return tuple(f.name for f in fields(kind) if hints[f.name] is not Any and get_origin(hints[f.name]) is not np.ndarray)


def _text(value: str) -> str:
    """A string that UTF-8 has, too: what is no character (of a file's name, say) becomes its escape."""
    return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()


class AppendFile:
    """A new file that grows by whole records, each with the system when `write` returns: it outlives the process.

    What cannot be written (a full disk) costs no answer: it is left out and counted, the first one is warned of, and the
    next one is tried anew. A failing machine may still lose what its system had not brought to the disk.
    """

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        """Make the file, which only its owner may read.

        Args:
            path: of no file that is there.
            most_bytes: what would make it larger cannot be written.

        Raises:
            OSError: it is there already (FileExistsError), or cannot be made.
        """
        self._path, self._most_bytes = path, most_bytes
        self._lock = threading.Lock()
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self.size = 0
        """Bytes."""
        self.lost = 0
        """Records that could not be written."""

    def write(self, record: bytes) -> None:
        """Append a record, whole or not at all."""
        with self._lock:
            try:
                self._append(record)
            except OSError as error:
                self.lost += 1
                if self.lost == 1:
                    _log.warning("%s: %s; what cannot be written there is left out", self._path, error.strerror)

    def close(self) -> None:
        """Close the file; what is written to it from then on is lost."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                with suppress(OSError):  # such as a quota that a network's file system tells only now
                    os.close(descriptor)

    def _append(self, record: bytes) -> None:
        if self.size + len(record) > self._most_bytes:
            raise OSError(errno.EFBIG, f"it has reached its {self._most_bytes} bytes")
        if os.write(self._descriptor, record) < len(record):
            os.ftruncate(self._descriptor, self.size)  # or the next record would follow upon half of this one
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size += len(record)


def file_before(path: Path) -> Path:
    """Return where the lines are that a file of lines took the place of."""
    return path.with_name(f"{path.stem}.before{path.suffix}")


class DecisionLog:
    """The lines of a run, in two files of at most `most_bytes`; thread-safe. Who makes it closes it."""

    def __init__(self, path: Path, most_bytes: int = MOST_BYTES) -> None:
        """Make the first file; see :class:`AppendFile`.

        Raises:
            OSError: it is there already, or cannot be made.
        """
        self._path, self._most_bytes = path, most_bytes
        self._lock = threading.Lock()
        self._file, self._lost_before = AppendFile(path, most_bytes), 0

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self._lost_before + self._file.lost

    def write(self, event: Event) -> None:
        """Append an event's line.

        Raises:
            TypeError: a field is of a kind that has no plain form.
        """
        new = line(event)
        with self._lock:
            if 0 < self._file.size > self._most_bytes - len(new):
                self._begin_another()
            self._file.write(new)

    def close(self) -> None:
        """Close the file; what is written from then on is lost."""
        with self._lock:
            self._file.close()

    def _begin_another(self) -> None:
        """Put the full file aside; if that fails, it stays, and refuses what is too much for it."""
        with suppress(OSError):
            with suppress(FileNotFoundError):
                os.replace(self._path, file_before(self._path))
            another = AppendFile(self._path, self._most_bytes)
            self._file.close()
            self._file, self._lost_before = another, self.lost
