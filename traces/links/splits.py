"""Which of a user's link traces are for training, validation and test, so that nothing is tested on that was trained on.

Where a folder holds `train`, `validation` or `test` (a folder, or a link file `NAME.json`), each split takes its own, whole. Else
the traces are divided, each family by itself, always alike:

* three or more: whole traces, 70 % for training and 15 % each for validation and test, at least one each;
* one or two: each is cut in time, the first 70 % for training, the next 15 % for validation, the last 15 % for the test.

What does not live here: reading (readers.py), and the bundled links (traces/bundled).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from runtime.settings import one_of, shown
from traces.errors import TraceError
from traces.links.filling import Filling
from traces.links.readers import load
from traces.links.trace import SERIES, LinkTrace

SPLITS = ("train", "validation", "test")
_HELD_OUT = 0.15  # of a family's traces or of a trace's time, for validation and for the test each
_ENOUGH = 3
"""Traces of a family that are divided whole."""


def load_split(path: str | Path, split: str, filling: Filling | None = None) -> list[LinkTrace]:
    """Return the traces of a file or folder that are for a split; see the module's docstring.

    Raises:
        SettingError: there is no such split.
        TraceError: see :func:`traces.links.readers.load`; or the folder has other splits, but not this one; or a trace
            cannot be divided.
    """
    one_of("split", split, SPLITS)
    own = {name: found for name in SPLITS if (found := _own(Path(path), name)) is not None}
    if not own:
        try:
            return divided(load(path, filling))[split]
        except TraceError as error:
            raise error if str(path) in str(error) else TraceError(f"{path}: {error}") from None
    if split not in own:
        raise TraceError(f"{path} holds {', '.join(own)}, but no {split}; put the link traces for it into {Path(path) / split}")
    return load(own[split], filling)


def divided(links: Sequence[LinkTrace]) -> Mapping[str, list[LinkTrace]]:
    """Divide traces among the splits; see the module's docstring.

    Raises:
        TraceError: a trace that must be cut is too short, or a part of it carries nothing in one direction.
    """
    parts: dict[str, list[LinkTrace]] = {split: [] for split in SPLITS}
    for family in sorted({link.family for link in links}):
        own = sorted((link for link in links if link.family == family), key=lambda link: link.name)
        for split, of_family in (_whole(own) if len(own) >= _ENOUGH else _cut(own)).items():
            parts[split] += of_family
    return parts


def _own(path: Path, split: str) -> Path | None:
    """What a folder holds for a split."""
    return next((each for each in (path / split, path / f"{split}.json") if os.path.exists(each)), None)


def _whole(links: Sequence[LinkTrace]) -> dict[str, list[LinkTrace]]:
    held = max(1, round(_HELD_OUT * len(links)))
    order = np.random.default_rng(0).permutation(len(links))
    places = {"test": order[:held], "validation": order[held : 2 * held], "train": order[2 * held :]}
    return {split: [links[i] for i in sorted(chosen)] for split, chosen in places.items()}


def _cut(links: Sequence[LinkTrace]) -> dict[str, list[LinkTrace]]:
    return {split: [_part(link, split) for link in links] for split in SPLITS}


def _part(link: LinkTrace, split: str) -> LinkTrace:
    samples = len(link.rtt_ms)
    held = max(1, round(_HELD_OUT * samples))
    edges = (0, samples - 2 * held, samples - held, samples)
    start, stop = edges[SPLITS.index(split) : SPLITS.index(split) + 2]
    folders = "put whole traces into folders train, validation and test instead"
    if samples < len(SPLITS):
        raise TraceError(
            f"link trace {shown(link.name)} has {samples} samples, too few to be cut for {', '.join(SPLITS)}; {folders}"
        )
    try:
        return replace(link, **{name: getattr(link, name)[start:stop] for name in SERIES})
    except TraceError as error:
        raise TraceError(f"cut for {split}, {error}; {folders}") from None
