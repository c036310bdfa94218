"""A reproduced table as a person reads it: beside the paper's figures, with where the constants come from; and a picture.

What does not live here: the figures (traces/hat/), and the command (reproduce.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from scripts._cli import console
from scripts._report import write_figure
from traces.hat.ablation import BAR, Estimate, Row
from traces.hat.run import Load
from traces.hat.sources import constants
from traces.hat.testbed import ONE_DEVICE_SPEEDUP, Fitted, Testbed


@dataclass(frozen=True)
class View:
    """The table with other constants."""

    name: str
    rows: Sequence[Row]


def show(rows: Sequence[Row], views: Sequence[View], testbed: Testbed, fitted: Fitted, speedup: Mapping[str, float]) -> None:
    """Print rows beside the paper's, what the constants are, and what those guess right that were fitted to less."""
    table = Table(
        title="HAT on SpecBench, Vicuna-7B: paper (measured) and simulation (95 % intervals over seeds)", title_justify="left"
    )
    table.add_column("", no_wrap=True)
    for head in ("TTFT ms, paper", "simulated", "off", "TBT ms, paper", "simulated", "off"):
        table.add_column(head, justify="right")
    for row in rows:
        table.add_row(
            row.method.name,
            *(f"{row.method.ttft_ms:.1f}", _interval(row.ttft_ms), f"{row.ttft_off:+.1%}"),
            *(f"{row.method.tbt_ms:.1f}", _interval(row.tbt_ms), f"{row.tbt_off:+.1%}"),
            style=None if row.within_bar else "yellow",
        )
    console.print(table)
    off = [abs(each) for row in rows for each in (row.ttft_off, row.tbt_off)]
    console.print(
        f"{sum(each <= BAR for each in off)} of {len(off)} figures are within {BAR:.0%} of the paper's; the worst is off by {max(off):.1%}"
    )
    console.print(
        f"simulated: a cloud busy {min(row.busy for row in rows):.0%} to {max(row.busy for row in rows):.0%} of the time, with "
        f"{min(row.under_way for row in rows):.0f} to {max(row.under_way for row in rows):.0f} answers under way"
    )
    _show_constants(testbed, fitted)
    _show_views([View("fitted to all 10 figures", rows), *views])
    console.print(
        "two readings of ours were chosen with the table in view, in all three: the states of a whole prompt come back, and whole prompts "
        "are not run in one forward with tokens; the guesses, from data sheets, were written down after first trials"
    )
    said = ", ".join(f"{factor:.2f} x ({key})" for key, factor in speedup.items())
    console.print(
        f"one device alone decodes faster with drafts, by {said}; the paper says {ONE_DEVICE_SPEEDUP} x; nothing is fitted to it"
    )


def _show_constants(testbed: Testbed, fitted: Fitted) -> None:
    table = Table(
        title="What it goes by: the paper's, derived from it, ours (assumed), fitted to the table above", title_justify="left"
    )
    for head in ("constant", "value", "kind", "source"):
        table.add_column(head, overflow="fold")
    for each in constants(testbed, fitted):
        table.add_row(*each)
    console.print(table)


def _show_views(views: Sequence[View]) -> None:
    table = Table(title="What is fitted, and what predicted: off by, TTFT / TBT", title_justify="left")
    table.add_column("constants", no_wrap=True)
    for row in views[0].rows:
        table.add_column(row.method.key, justify="right")
    for view in views:
        table.add_row(view.name, *(f"{row.ttft_off:+.0%} / {row.tbt_off:+.0%}" for row in view.rows))
    console.print(table)


def show_what_if(rows: Sequence[Row], testbed: Testbed, load: Load) -> None:
    """Print rows of a setting that the paper does not have."""
    asked = f"{load.devices} devices in a closed loop" if load.rate is None else f"{load.rate:.2f} requests/s"
    low, high = (rate * 8 / 1e6 for rate in testbed.uplink_bytes_per_second)
    prompts = "as SpecBench's" if load.prompt_tokens is None else f"of {load.prompt_tokens} tokens"
    table = Table(title=f"what if: {asked}, uplinks of {low:.3g} to {high:.3g} Mbit/s, prompts {prompts}", title_justify="left")
    table.add_column("", no_wrap=True)
    for head in ("TTFT ms", "TBT ms", "TTFT less", "TBT less", "cloud busy", "under way", "piece tokens"):
        table.add_column(head, justify="right")
    for row in rows:
        less = (1 - row.ttft_ms.mean / rows[0].ttft_ms.mean, 1 - row.tbt_ms.mean / rows[0].tbt_ms.mean)
        table.add_row(
            row.method.name,
            *(_interval(row.ttft_ms), _interval(row.tbt_ms)),
            *("-" if row is rows[0] else f"{each:.0%}" for each in less),
            *(f"{row.busy:.0%}", f"{row.under_way:.1f}", f"{row.chunk_tokens:.0f}"),
        )
    console.print(table)
    console.print(
        "simulated, with constants that were fitted at the paper's one setting; less: than the first row; 95 % intervals over seeds"
    )


def draw(rows: Sequence[Row], path: Path, *, paper: bool) -> None:
    """Draw a bar a row and figure, the paper's beside it.

    Raises:
        TraceError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2), dpi=110)
    width = 0.4 if paper else 0.7
    for panel, name, means in (
        (panels[0], "TTFT, ms", [(row.method.ttft_ms, row.ttft_ms) for row in rows]),
        (panels[1], "TBT, ms", [(row.method.tbt_ms, row.tbt_ms) for row in rows]),
    ):
        at = range(len(rows))
        found = [each for _, each in means]
        reach = [[each.mean - each.low for each in found], [each.high - each.mean for each in found]]
        shift = width / 2 if paper else 0
        if paper:
            panel.bar([x - shift for x in at], [stated for stated, _ in means], width, color="silver", label="paper, measured")
        panel.bar([x + shift for x in at], [each.mean for each in found], width, yerr=reach, capsize=3, label="simulated")
        panel.set_xticks(list(at), [row.method.name.replace(" ", "\n").replace("+\n", "+ ") for row in rows], fontsize=8)
        panel.set_ylabel(name)
        panel.grid(alpha=0.3, axis="y")
    panels[0].legend(fontsize=8)
    figure.suptitle("HAT on SpecBench, Vicuna-7B: simulation, six constants fitted" if paper else "HAT, simulated", fontsize=10)
    write_figure(figure, path)


def _interval(each: Estimate) -> str:
    return f"{each.mean:.1f} [{each.low:.1f}, {each.high:.1f}]"
