"""Text files of others, gzipped or not, as lines and columns of numbers; what is wrong is told with its line.

What does not live here: what the columns mean (the readers).
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.settings import shown
from traces.errors import TraceError
from traces.schemas import read_file

_GZIP = b"\x1f\x8b"
_LARGEST = 256 * 2**20  # bytes once unpacked
_ENDINGS = (".txt", ".csv", ".log", ".dat", ".tsv")
FURTHEST_SECONDS = 1e15
"""Of a time from its zero, whatever that is."""
NOT_MEASURED = ("", "-")
"""What stands in a column where there is no measurement."""


@dataclass(frozen=True)
class Text:
    """The lines of a file."""

    path: Path
    lines: list[str]
    """Without blank ones at the end; the first is line 1."""

    @classmethod
    def read(cls, path: Path) -> Text:
        """Read a file, unpacked where it is gzipped.

        Raises:
            TraceError: it is missing, unreadable, too large, damaged, empty, or not text in UTF-8.
        """
        content = read_file(path, f"no link trace at {path}")
        if content.startswith(_GZIP):
            content = _unpacked(content, path)
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise TraceError(f"{path} is no link trace: it is not text in UTF-8") from None
        if not (text := text.rstrip()):
            raise TraceError(f"{path} is no link trace: it is empty")
        return cls(path, text.splitlines())

    @property
    def stem(self) -> str:
        """The file's name, without `.gz` and an ending that says no more than that it is text."""
        name = self.path.name.removesuffix(".gz")
        return next((name.removesuffix(ending) for ending in _ENDINGS if name.endswith(ending)), name)

    def wrong(self, line: int, said: str) -> TraceError:
        """Say what is wrong with a line."""
        return TraceError(f"{self.path}: line {line}: {said}")

    def rows(self, separator: str | None, columns: int, first: int = 1, exactly: bool = True) -> list[list[str]]:
        """Return the fields of each line from line `first` on.

        Args:
            separator: between fields; None is any blanks.
            columns: how many fields there are.
            first: number of the first line of the table.
            exactly: False allows more fields.

        Raises:
            TraceError: there is no such line, or one has another number of fields.
        """
        rows = [[field.strip() for field in line.split(separator)] for line in self.lines[first - 1 :]]
        if not rows:
            raise TraceError(f"{self.path} is too short: it has no row but its header")
        for number, row in enumerate(rows, first):
            if len(row) < columns or (exactly and len(row) > columns):
                wanted = columns if exactly else f"at least {columns}"
                raise self.wrong(number, f"{shown(self.lines[number - 1])} has {len(row)} fields, and {wanted} are wanted")
        return rows

    def numbers(
        self, name: str, texts: Sequence[str], first: int, low: float, high: float, gaps: bool = False
    ) -> NDArray[np.float64]:
        """Return a column as numbers, [rows].

        Args:
            name: of the column.
            texts: its fields.
            first: number of the line of the first.
            low: smallest that makes sense.
            high: largest.
            gaps: a field may say that nothing was measured (:data:`NOT_MEASURED`): NaN.

        Raises:
            TraceError: a field is no number in low..high.
        """
        missing = np.array([gaps and text in NOT_MEASURED for text in texts], bool)
        values = np.array([_number(text) for text in texts])
        inside = missing | ((values >= low) & (values <= high))
        if not inside.all():
            place = int(np.argmin(inside))
            raise self.wrong(first + place, f"{name}={shown(texts[place])} must be a number in {low:g}..{high:g}")
        return values

    def rising(self, name: str, times: NDArray[np.float64], first: int) -> NDArray[np.float64]:
        """Return times of rows, [rows], that never go back; rows may share one.

        Raises:
            TraceError: one is before the row above it.
        """
        back = np.flatnonzero(np.diff(times) < 0)
        if len(back):
            at = int(back[0]) + 1
            raise self.wrong(first + at, f"{name}={times[at]:.10g} is before the {times[at - 1]:.10g} of the line above")
        return times


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _unpacked(content: bytes, path: Path) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
            unpacked = file.read(_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{path} cannot be unpacked: its gzip is damaged ({error})") from None
    if len(unpacked) > _LARGEST:
        raise TraceError(f"{path} cannot be read: unpacked it has more than {_LARGEST} bytes, which no link trace has")
    return unpacked
