"""Link traces of any form that is known, told by what is in a file: the registry, and the reading of a file or a folder.

To add a form, write its module with a `Format` and name it in :data:`FORMATS`. What does not live here: which traces are for training
and which for the test (splits.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from runtime.errors import SettingError
from traces.errors import TraceError
from traces.links import cicv5g, mahimahi, nyumets, pensieve, table, ucc5g
from traces.links.filling import Filling
from traces.links.source import Format
from traces.links.store import load_links, require_names
from traces.links.text import Text
from traces.links.trace import LinkTrace

FORMATS: tuple[Format, ...] = (
    mahimahi.FORMAT,
    pensieve.FORMAT,
    ucc5g.FORMAT,
    cicv5g.FORMAT,
    nyumets.UNITS,
    nyumets.COLUMNS,
    table.FORMAT,
)
"""No file begins as two of them say."""
_OURS = "synera-links: a JSON file as traces.links.store.save_links writes it"
_BESIDE_TRACES = ("readme", "license", "licence", "copying", "notice")
"""Names of what lies in a folder of traces to be read by people, whatever the ending."""
_MOST_FILES = 10_000


def load(path: str | Path, filling: Filling | None = None) -> list[LinkTrace]:
    """Read the link traces of a file, or of all files in a folder and those below it.

    In a folder, hidden files and a README or licence are passed over; any other file must be a trace. Traces come in
    the order of their paths, and are called by these.

    Args:
        path: the file or folder.
        filling: figures for what was not recorded; None takes the published ones.

    Raises:
        TraceError: nothing is there, a file has no form that is known, a row is damaged, or a trace is too short.
    """
    path, filling = Path(path), filling or Filling()
    if not os.path.isdir(path):
        return _read(path, None, filling)
    links = [link for file in _files(path) for link in _read(file, path, filling)]
    if not links:
        raise TraceError(f"{path}: there is no link trace in this folder")
    require_names([link.name for link in links], str(path))
    return links


def format_of(text: Text) -> Format:
    """Return the form of a file.

    Raises:
        TraceError: it is none that is known.
    """
    found = next((form for form in FORMATS if form.recognises(text.lines)), None)
    if found is None:
        known = "; ".join((*(f"{form.name}: {form.says}" for form in FORMATS), _OURS))
        raise TraceError(f"{text.path} is no link trace of a known form; known are {known}")
    return found


def _read(file: Path, folder: Path | None, filling: Filling) -> list[LinkTrace]:
    """The traces of a file; of a folder's, its path in it is its name."""
    text = Text.read(file)
    if text.lines[0].lstrip().startswith("{"):
        return load_links(file)
    form = format_of(text)
    if (
        form is mahimahi.FORMAT
        and folder is not None
        and file.name < min((p.name for p in mahimahi.other_direction(file)), default="")
    ):
        return []  # read with the other direction
    try:
        recorded = form.read(text)
        name = recorded.name if folder is None else (file.parent.relative_to(folder) / recorded.name).as_posix()
        return [filling.fill(replace(recorded, name=name))]
    except SettingError:
        raise
    except TraceError as error:
        known = str(error).startswith(str(file))
        raise (error if known else TraceError(f"{file}: {error}")) from None


def _files(folder: Path) -> Iterator[Path]:
    """Those that may be traces, in the order of their paths; links to other folders are not followed."""
    count = 0
    for where, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or name.lower().split(".")[0] in _BESIDE_TRACES:
                continue
            count += 1
            if count > _MOST_FILES:
                raise TraceError(f"{folder} holds more than {_MOST_FILES} files; name a folder of link traces")
            yield Path(where) / name
