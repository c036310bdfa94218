"""Link files: a set of traces as one JSON file.

Version 2 says of each series that was not recorded how it was filled; version 1, which could not, is still read.

What does not live here: the trace itself and its ranges (trace.py), and readers of public trace sets (readers.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import FailFast, Field

from runtime.settings import shown
from traces.errors import TraceError
from traces.files import write_text
from traces.links.trace import MOST_SAMPLES, SERIES, LinkTrace
from traces.schemas import EXACT, Name, read_json

_Samples = Annotated[list[float], Field(min_length=1, max_length=MOST_SAMPLES), FailFast()]


@dataclass(frozen=True)
class _Link:
    """One trace as it is written down; its ranges are the trace's own."""

    __pydantic_config__ = EXACT

    name: Name
    family: Name
    step_seconds: float
    rtt_ms: _Samples
    uplink_mbps: _Samples
    downlink_mbps: _Samples
    filled: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _LinkFile:
    """A link file."""

    __pydantic_config__ = EXACT

    format: Literal["synera-links"]
    version: Literal[1, 2]
    links: Annotated[list[_Link], Field(min_length=1, max_length=10_000), FailFast()]


def save_links(links: Sequence[LinkTrace], path: str | Path) -> None:
    """Write traces as one JSON file, whole or not at all.

    Raises:
        TraceError: there are none, or two have one name.
    """
    require_names([link.name for link in links], "the links to save")
    rows = [
        {
            "name": link.name,
            "family": link.family,
            "step_seconds": link.step_seconds,
            **{name: np.round(getattr(link, name), 4).tolist() for name in SERIES},
            "filled": dict(link.filled),
        }
        for link in links
    ]
    write_text(path, json.dumps({"format": "synera-links", "version": 2, "links": rows}))


def load_links(path: str | Path) -> list[LinkTrace]:
    """Read traces written by :func:`save_links`.

    Raises:
        TraceError: the file is missing, damaged, or of another format, or a trace has a value out of its range.
    """
    stated = read_json(path, _LinkFile, f"no link file at {path}")
    require_names([link.name for link in stated.links], str(path))
    try:
        return [
            LinkTrace(
                link.name,
                link.family,
                link.step_seconds,
                np.array(link.rtt_ms),
                np.array(link.uplink_mbps),
                np.array(link.downlink_mbps),
                link.filled,
            )
            for link in stated.links
        ]
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None


def require_names(names: list[str], where: str) -> None:
    """Do nothing for names that tell some links from each other.

    Raises:
        TraceError: there are none, or two are alike.
    """
    if not names:
        raise TraceError(f"{where}: there are no links in it")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise TraceError(f"{where}: two links are called {shown(twice)}; a link is told by its name")
