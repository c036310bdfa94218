"""Which links a command takes: the bundled ones, or those of `--links` that are for its split.

What does not live here: how traces are read (traces/links/readers.py) and divided (traces/links/splits.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from runtime.errors import SettingError
from scripts._cli import console
from scripts._text import harmless
from traces import bundled
from traces.links.filling import Filling
from traces.links.splits import load_split
from traces.links.trace import LinkTrace

LinksOf = Callable[[str], list[LinkTrace]]
"""From a split to its links."""


def check_filling(links: Path | None, fill: Filling) -> None:
    """Refuse figures for what recorded links lack where none are named.

    Raises:
        SettingError: so it is.
    """
    if links is None and fill != Filling():
        raise SettingError("--fill says what recorded links lack; name them with --links")


def links_of(links: Path | None, fill: Filling) -> LinksOf:
    """Return what reads the links of a split and says which were taken, and what in them was not recorded."""
    if links is None:
        return bundled.links

    def of(split: str) -> list[LinkTrace]:
        found = load_split(links, split, fill)
        families = len({link.family for link in found})
        filled = [
            f"{name} of {sum(name in link.filled for link in found)}" for name in sorted({n for x in found for n in x.filled})
        ]
        made = f"; not recorded, so filled by rule: {', '.join(filled)}" if filled else ""
        console.print(harmless(f"links from {links}, for {split}: {len(found)} traces of {families} families{made}"))
        return found

    return of
