"""Workload files of our own: JSON, whole and exact.

What does not live here: the workload (trace.py), and files of others, CSV and the choice by a file's form (readers.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import FailFast, Field

from traces.errors import TraceError
from traces.files import write_text
from traces.schemas import EXACT, Name, Prose, parse_json
from traces.workload.trace import MOST_REQUESTS, SERIES, Workload

_Times = Annotated[list[float], Field(min_length=1, max_length=MOST_REQUESTS), FailFast()]
_Tokens = Annotated[list[int], Field(min_length=1, max_length=MOST_REQUESTS), FailFast()]


@dataclass(frozen=True)
class _WorkloadFile:
    """A workload as it is written down; its ranges are the workload's own."""

    __pydantic_config__ = EXACT

    format: Literal["synera-workload"]
    version: Literal[1]
    name: Name
    source: Prose
    seconds: float
    arrival_seconds: _Times
    context_tokens: _Tokens
    generated_tokens: _Tokens


def save_workload(workload: Workload, path: str | Path) -> None:
    """Write a workload, whole or not at all."""
    stated = {"format": "synera-workload", "version": 1, "name": workload.name, "source": workload.source}
    series = {name: getattr(workload, name).tolist() for name in SERIES}
    write_text(path, json.dumps(stated | {"seconds": workload.seconds} | series))


def parse_workload(content: bytes, where: str) -> Workload:
    """Read what :func:`save_workload` wrote.

    Raises:
        TraceError: it is damaged, of another format, or has a value out of its range.
    """
    stated = parse_json(content, _WorkloadFile, where)
    try:
        series = (np.array(stated.arrival_seconds, float), np.array(stated.context_tokens), np.array(stated.generated_tokens))
        return Workload(stated.name, stated.source, stated.seconds, *series)
    except TraceError as error:
        raise TraceError(f"{where}: {error}") from None
