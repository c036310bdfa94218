"""Workload files by their form: our own JSON and CSV, the Azure LLM inference traces of 2023, Mooncake's lines of JSON.

What does not live here: the workload itself (trace.py), and writing (store.py).
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from runtime.settings import shown
from traces.errors import TraceError
from traces.schemas import read_file
from traces.workload.store import parse_workload
from traces.workload.trace import LONGEST_SECONDS, MOST_REQUESTS, MOST_TOKENS, Workload

_HEAD = 4096
"""Bytes in which a file says what it is."""
_LARGEST = 2**30
"""Bytes of a file, unpacked; Azure's week of 2024 has less."""
_OWN = "arrival_seconds,context_tokens,generated_tokens"
_AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens"


class _Request(NamedTuple):
    at: float
    """Seconds since whenever the file counts from."""
    context: int
    generated: int


class _Form(NamedTuple):
    source: str
    read: Callable[[str], _Request]
    """Reads a line; a ValueError says what is wrong with it."""


def load_workload(path: str | Path) -> Workload:
    """Read a workload; its form is told by its content, and `.gz` is unpacked.

    Times are counted from the first request.  A file that does not state its period gets the last arrival's time and one mean
    gap.

    Raises:
        TraceError: the file is missing, damaged or of no form that is known; names the line and the value that is wrong.
    """
    path = Path(path)
    content = _unpacked(path, read_file(path, f"no workload at {path}", _LARGEST))
    head = content[:_HEAD].lstrip()
    if head.startswith(b"{") and b'"synera-workload"' in head:
        return parse_workload(content, str(path))
    try:
        lines = io.StringIO(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise TraceError(f"{path} cannot be read: it is not text in UTF-8 (byte {error.start})") from None
    form, first_line = _form(path, lines)
    return _workload(path, form, lines, first_line)


def holds_workload(path: str | Path) -> bool:
    """Return whether a file says that it is a workload: by our JSON's name, a header, or the names in Mooncake's lines.

    False for a folder and for what cannot be read; what else is wrong with the file is not looked at.
    """
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as file:
            head = file.read(_HEAD).decode("utf-8-sig", errors="replace").lstrip()
    except (OSError, EOFError, zlib.error):
        return False
    first_line = head.split("\n", 1)[0].strip()
    if first_line.startswith("{"):
        return '"synera-workload"' in head or '"input_length"' in first_line
    return first_line in (_OWN, _AZURE)


def _unpacked(path: Path, content: bytes) -> bytes:
    if not content.startswith(b"\x1f\x8b"):
        return content
    try:
        with gzip.open(io.BytesIO(content)) as packed:
            unpacked = packed.read(_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{path} cannot be unpacked: {error}") from None
    if len(unpacked) > _LARGEST:
        raise TraceError(f"{path} cannot be read: unpacked it has more than the {_LARGEST} bytes that make sense")
    return unpacked


def _form(path: Path, lines: io.StringIO) -> tuple[_Form, int]:
    """Tell the form by the first line, and go to the first request; returns its line's number."""
    head = lines.readline().strip()
    if head.startswith("{"):
        lines.seek(0)
        return _Form(f"Mooncake trace {path.name} (kvcache-ai/Mooncake).", _mooncake), 1
    forms = {
        _OWN: _Form(f"{path.name}.", _own),
        _AZURE: _Form(f"Azure LLM inference trace {path.name} (Azure/AzurePublicDataset; Splitwise, ISCA 2024).", _azure),
    }
    if head not in forms:
        raise TraceError(
            f"{path} is no workload: its first line is {shown(head)}, and neither a line of JSON nor one of the headers "
            f"{_OWN} and {_AZURE}"
        )
    return forms[head], 2


def _workload(path: Path, form: _Form, lines: io.StringIO, first_line: int) -> Workload:
    found = list(_requests(path, form, lines, first_line))
    if not found:
        raise TraceError(f"{path} is no workload: there are no requests in it")
    at, context, generated = (np.array(series) for series in zip(*found, strict=True))
    arrival = (at - at[0]).astype(np.float64)
    last = float(arrival[-1])
    seconds = last + last / (len(arrival) - 1) if last > 0 else 1.0
    name = path.name.removesuffix(".gz").rpartition(".")[0] or path.name
    return Workload(name[:200], form.source, seconds, arrival, context.astype(np.int64), generated.astype(np.int64))


def _requests(path: Path, form: _Form, lines: io.StringIO, first_line: int) -> Iterator[_Request]:
    before = first = None
    for number, line in enumerate(lines, first_line):

        def wrong(reason: object, number: int = number) -> NoReturn:
            raise TraceError(f"{path}, line {number}: {reason}") from None

        text = line.strip()
        if not text:
            continue
        if number - first_line >= MOST_REQUESTS:
            wrong(f"there are more requests than the {MOST_REQUESTS} that make sense")
        try:
            request = form.read(text)
        except (ValueError, OverflowError, RecursionError) as error:
            wrong(f"{shown(text)} is no request: {error}")
        before, first = before or request, first or request
        if request.at < before.at:
            wrong(f"{shown(text)} came before the request of the line above it; sort the file by time")
        if request.at - first.at > LONGEST_SECONDS:
            wrong(f"{shown(text)} came {request.at - first.at:.4g} s after the first; at most {LONGEST_SECONDS:g} make sense")
        before = request
        yield request


def _cells(line: str) -> list[str]:
    cells = line.split(",")
    if len(cells) != 3:
        raise ValueError(f"it has {len(cells)} cells, not 3")
    return cells


def _tokens(value: object, name: str) -> int:
    """A count of tokens, as a number of JSON or as text."""
    number = int(value) if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= MOST_TOKENS:
        raise ValueError(f"{name}={shown(value)} must be a whole number in 0..{MOST_TOKENS}")
    return number


def _seconds(value: object, name: str, unit: float = 1.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        raise ValueError(f"{name}={shown(value)} must be a finite number")
    return value * unit


def _own(line: str) -> _Request:
    at, context, generated = _cells(line)
    try:
        seconds = float(at)
    except ValueError:
        raise ValueError(f"arrival_seconds={shown(at)} must be a number") from None
    seconds = _seconds(seconds, "arrival_seconds")
    return _Request(seconds, _tokens(context, "context_tokens"), _tokens(generated, "generated_tokens"))


def _azure(line: str) -> _Request:
    """`2023-11-16 18:15:46.6805900,374,44`: seven decimals, one more than Python's own reading keeps."""
    stamp, context, generated = _cells(line)
    whole, dot, decimals = stamp.partition(".")
    if dot and not (decimals.isascii() and decimals.isdigit() and len(decimals) <= 9):
        raise ValueError(f"TIMESTAMP={shown(stamp)} must be a time such as 2023-11-16 18:15:46.6805900")
    try:
        day = datetime.strptime(whole, "%Y-%m-%d %H:%M:%S")
    except ValueError:
        raise ValueError(f"TIMESTAMP={shown(stamp)} must be a time such as 2023-11-16 18:15:46.6805900") from None
    # Whole seconds from a day near to those of the traces, so that a float keeps all of the decimals.
    seconds = (day - datetime(2023, 1, 1)).total_seconds() + float(f"0.{decimals or 0}")
    return _Request(seconds, _tokens(context, "ContextTokens"), _tokens(generated, "GeneratedTokens"))


def _mooncake(line: str) -> _Request:
    """`{"timestamp": MS, "input_length": N, "output_length": N, ...}`."""
    stated = json.loads(line)
    if not isinstance(stated, dict):
        raise ValueError("it is not an object")
    if missing := [name for name in ("timestamp", "input_length", "output_length") if name not in stated]:
        raise ValueError(f"it has no {missing[0]}")
    at = _seconds(stated["timestamp"], "timestamp", 1e-3)
    return _Request(at, _tokens(stated["input_length"], "input_length"), _tokens(stated["output_length"], "output_length"))
