"""Link traces as `inspect-trace` shows them: a table by family, and a picture over time.

What does not live here: the figures (traces/links/inspection.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from scripts._cli import console
from scripts._report import write_figure
from scripts._text import harmless
from traces.links.inspection import FamilyFigures
from traces.links.trace import SERIES, LinkTrace

MOST_DRAWN = 16
"""Families in a picture."""
_LONGEST_DRAWN = 2000  # points of a series; more are averaged
_UNITS = {"rtt_ms": "round trip, ms", "uplink_mbps": "uplink, Mbit/s", "downlink_mbps": "downlink, Mbit/s"}


def show(path: Path, links: Sequence[LinkTrace], found: Mapping[str, FamilyFigures]) -> None:
    """Print the table of families, and by which rules what was not recorded was filled."""
    seconds = sum(family.seconds for family in found.values())
    console.print(harmless(f"{path}: {len(links)} link trace(s) of {len(found)} family(s), {seconds:.0f} s"))
    table = Table(
        title="by family, over time: 5th percentile, median, 95th; * not recorded, filled by a rule", title_justify="left"
    )
    table.add_column("family", no_wrap=True)
    for head in ("traces", "seconds", "step s", *_UNITS.values(), "no uplink", "no downlink"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, family in found.items():
        spreads = []
        for each in SERIES:
            s = family.series[each]
            spreads.append(f"{s.p5:.3g} {s.p50:.3g} {s.p95:.3g}{'*' if s.filled else ''}")
        table.add_row(
            harmless(name),
            str(family.traces),
            f"{family.seconds:.0f}",
            " ".join(f"{step:g}" for step in family.steps_seconds[:3]),
            *spreads,
            *(f"{family.series[rate].zero:.1%}" for rate in SERIES[1:]),
        )
    console.print(table)
    for (each, rule), families in _rules(found).items():
        console.print(harmless(f"* {each} of {', '.join(families)}: {rule}"))


def _rules(found: Mapping[str, FamilyFigures]) -> dict[tuple[str, str], list[str]]:
    """By series and rule, the families that it filled."""
    rules: dict[tuple[str, str], list[str]] = {}
    for each in SERIES:
        for name, family in found.items():
            for rule in family.series[each].filled:
                rules.setdefault((each, rule), []).append(name)
    return rules


def draw(links: Sequence[LinkTrace], path: Path) -> list[str]:
    """Draw the longest trace of each family over time, at most :data:`MOST_DRAWN`; return the names of those drawn."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    longest: dict[str, LinkTrace] = {}
    for link in sorted(links, key=lambda each: (each.family, -each.seconds, each.name)):
        longest.setdefault(link.family, link)
    drawn = list(longest.values())[:MOST_DRAWN]
    figure, rows = plt.subplots(len(drawn), 2, figsize=(11, 1 + 1.6 * len(drawn)), dpi=110, squeeze=False)
    for (rate_axes, rtt_axes), link in zip(rows, drawn, strict=True):
        for name, axes in (("downlink_mbps", rate_axes), ("uplink_mbps", rate_axes), ("rtt_ms", rtt_axes)):
            at, values = _thinned(getattr(link, name), link.step_seconds)
            style = ":" if name in link.filled else "-"
            label = f"{_UNITS[name]}{' (filled)' if name in link.filled else ''}"
            axes.plot(
                at,
                values,
                style,
                drawstyle="steps-post",
                linewidth=0.9,
                label=label,
                color={"uplink_mbps": "C1", "rtt_ms": "C2"}.get(name, "C0"),
            )
            axes.set_ylim(bottom=0)
            axes.set_xlim(0, link.seconds)
            axes.legend(loc="upper right", fontsize=6)
            axes.tick_params(labelsize=7)
            axes.grid(alpha=0.3)
        rate_axes.set_title(harmless(f"{link.family}: {link.name}"), fontsize=8, loc="left", parse_math=False)
    for axes in rows[-1]:
        axes.set_xlabel("seconds", fontsize=8)
    write_figure(figure, path)
    return [link.name for link in drawn]


def _thinned(values: NDArray[np.float64], step: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A series as points that can be told apart: means over as many steps as that takes."""
    every = -(-len(values) // _LONGEST_DRAWN)
    starts = np.arange(0, len(values), every)
    means = np.add.reduceat(values, starts) / np.diff([*starts, len(values)])
    return np.append(starts, len(values)) * step, np.append(means, means[-1])
