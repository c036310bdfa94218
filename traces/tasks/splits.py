"""Which prompts are recorded, by split: those of the bundled tasks, and those of a user's own file.

What does not live here: the tasks (tinyworld.py), scores and models. Needs no more than numpy and pydantic.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from runtime.errors import SettingError
from runtime.settings import shown
from traces.errors import TraceError
from traces.schemas import EXACT, Name, parse_json, read_file
from traces.tasks import tinyworld

_LONGEST = 1_000_000  # characters of a prompt: no context takes more
_HELD_OUT = 0.15  # of a file's prompts, for validation and for the test each
_JSON_LINES = (".jsonl", ".ndjson")
_LOOKS_LIKE_JSON = re.compile(r'\s*[\[{]\s*(\{\s*)?"prompt"\s*:')
_OWN_KIND = "custom"


@dataclass(frozen=True)
class Prompt:
    """One prompt to record."""

    text: str
    kind: str
    reference: str | None = None
    """What a good answer says; scorers that compare answers with it need one."""


@dataclass(frozen=True)
class _Prompt:
    """A line of a JSONL file of prompts."""

    __pydantic_config__ = EXACT

    prompt: Annotated[str, Field(min_length=1)]
    reference: str | None = None
    kind: Name = _OWN_KIND


def bundled_prompts(split: str, per_kind: int, seed: int = 0) -> list[Prompt]:
    """Return prompts of the bundled tasks, the same number of each kind."""
    return [Prompt(t.prompt, t.kind) for kind in tinyworld.KINDS for t in tinyworld.tasks(kind, split, per_kind, seed)]


def own_prompts(path: Path) -> dict[str, list[Prompt]]:
    """Divide the distinct prompts of a file: 70 % train, 15 % validation, 15 % test, at least one each.

    The same file always gives the same division; within a split, prompts keep the file's order.

    Raises:
        TraceError, SettingError: see :func:`read_prompts`.
        SettingError: fewer than three distinct prompts.
    """
    prompts = read_prompts(path)
    if len(prompts) < 3:
        raise SettingError(
            f"{path} holds {len(prompts)} distinct prompts; write at least 3, one a line: train, validation and test need one each"
        )
    held = max(1, round(_HELD_OUT * len(prompts)))
    order = np.random.default_rng(0).permutation(len(prompts))
    parts = {"test": order[:held], "validation": order[held : 2 * held], "train": order[2 * held :]}
    return {split: [prompts[i] for i in sorted(chosen)] for split, chosen in parts.items()}


def read_prompts(path: Path) -> list[Prompt]:
    """Return the distinct prompts of a file, in its order; blank lines count for nothing.

    A file whose name ends with .jsonl or .ndjson has one JSON object a line: `prompt`, a string that may have many lines,
    and optionally `reference` and `kind`, strings. Of any other file each line is a prompt.

    Raises:
        TraceError: the file is missing, cannot be read, is not text in UTF-8, or a line is not such an object.
        SettingError: a prompt is blank or too long, or is there twice with different references or kinds; or JSON lines under
            another name.
    """
    content = read_file(path, f"no prompts at {path}; write a text file there, one prompt a line, or JSON lines as NAME.jsonl")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        above = content[: error.start].count(b"\n")
        raise TraceError(f"{path} is not text in UTF-8: line {above + 1} has the byte 0x{content[error.start]:02x}") from None
    found: dict[str, tuple[int, Prompt]] = {}
    for number, prompt in _lines(text, path):
        if len(prompt.text) > _LONGEST:
            raise SettingError(f"{path}: line {number} has {len(prompt.text)} characters, and a prompt at most {_LONGEST}")
        first, same = found.setdefault(prompt.text, (number, prompt))
        if same != prompt:
            raise SettingError(
                f"{path}: lines {first} and {number} give the prompt {shown(prompt.text, 60)} different references or kinds; "
                "keep one of them"
            )
    return [prompt for _, prompt in found.values()]


def _lines(text: str, path: Path) -> Iterator[tuple[int, Prompt]]:
    """The prompt of each line that is not blank, with the line's number."""
    as_json = path.suffix.lower() in _JSON_LINES
    if not as_json and _LOOKS_LIKE_JSON.match(text):
        raise SettingError(f"{path} holds JSON; name it with the ending {_JSON_LINES[0]}, so that it is read as JSON lines")
    for number, line in enumerate(text.split("\n"), 1):
        if not (stripped := line.strip()):
            continue
        if not as_json:
            yield number, Prompt(stripped, _OWN_KIND)
            continue
        try:
            said = parse_json(stripped, _Prompt, f"{path}: line {number}")
        except TraceError as error:
            raise TraceError(
                f'{error}; write {{"prompt": "...", "reference": "...", "kind": "..."}}, the last two if wanted'
            ) from None
        if not said.prompt.strip():
            raise SettingError(f"{path}: the prompt of line {number} is blank")
        yield number, Prompt(said.prompt, said.kind, said.reference)
