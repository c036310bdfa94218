"""What attacks recover from hidden states, as `privacy` shows it: two tables, and a picture by depth.

What does not live here: the figures (traces/hat/recovery.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure
from rich.table import Table

from runtime.model.decoder import ModelConfig
from scripts._cli import console
from traces.files import replacing
from traces.hat.recovery import ATTACKS, EVERYTHING, PLACES, Recovered, Recovery, Share, Trial

_LINES: dict[str, Literal["-", "--", ":"]] = {"fp32": "-", "bf16": "--", "int8": ":"}


def show(found: Recovered, trial: Trial, model: ModelConfig) -> None:
    """Print what was recovered, by precision and by place, and what it is to be held against."""
    tokens = found.commonest[EVERYTHING].tokens
    title = f"tokens recovered from states: {trial.prompts} test prompts with answers, {tokens} tokens"
    if trial.replayed and (replays := _of(found, "replay", trial.precisions[0])):
        title += f"; replay: {trial.replayed} prompts, {replays[0].shares[EVERYTHING].tokens} tokens"
    console.print(_by_precision(found, trial, f"{title}; 95 % intervals by prompt"))
    console.print(_by_place(found, trial.precisions[0]))
    console.print(
        f"{model.layers} layers, hidden {model.hidden}, {model.vocab} tokens. Without any state, saying the commonest public token "
        f"everywhere is right for {found.commonest[EVERYTHING].mean:.3f}; {found.unseen[EVERYTHING].mean:.3f} of the tokens are in no "
        f"public text, so that the probe cannot say them"
    )


def draw(found: Recovered, path: Path) -> None:
    """Draw recovery by depth, a colour an attack and a line a precision, whole or not at all.

    Raises:
        TraceError: the file cannot be written.
    """
    figure = Figure(figsize=(7.5, 4.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for number, attack in enumerate(ATTACKS):
        for precision, line in _LINES.items():
            if rows := _of(found, attack, precision):
                depths, shares = [row.depth for row in rows], [row.shares[EVERYTHING] for row in rows]
                means, name = [share.mean for share in shares], f"{attack}, {precision}"
                axes.plot(
                    depths, means, line, color=f"C{number}", marker="os^v"[number], markersize=4, linewidth=1.2, label=name
                )
                axes.fill_between(depths, [s.low for s in shares], [s.high for s in shares], color=f"C{number}", alpha=0.08)
    axes.axhline(found.commonest[EVERYTHING].mean, color="dimgray", linewidth=0.8, linestyle="-.", label="commonest token")
    axes.set_xlabel("depth m: layers run before the state is sent")
    axes.set_ylabel("share of tokens recovered")
    axes.set_ylim(-0.02, 1.04)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix(".").lower())


def _of(found: Recovered, attack: str, precision: str) -> list[Recovery]:
    """The rows of an attack, by depth."""
    return [each for each in found.recoveries if (each.attack, each.precision) == (attack, precision)]


def _by_precision(found: Recovered, trial: Trial, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("attack", no_wrap=True)
    for head in ("depth m", *trial.precisions):
        table.add_column(head, justify="right", no_wrap=True)
    for attack in ATTACKS:
        for row in _of(found, attack, trial.precisions[0]):
            cells = (found.of(attack, row.depth, precision) for precision in trial.precisions)
            table.add_row(attack, str(row.depth), *(_shown(each.shares[EVERYTHING]) for each in cells if each is not None))
        table.add_section()
    return table


def _by_place(found: Recovered, precision: str) -> Table:
    table = Table(title=f"the same by the place of a token, {precision}", title_justify="left")
    table.add_column("attack", no_wrap=True)
    for head in ("depth m", *PLACES):
        table.add_column(head, justify="right", no_wrap=True)
    for attack in ATTACKS:
        for row in _of(found, attack, precision):
            table.add_row(attack, str(row.depth), *(_shown(row.shares.get(place), 2) for place in PLACES))
        table.add_section()
    every = (found.commonest.get(place) for place in PLACES)
    table.add_row("tokens", "", *("0" if each is None else str(each.tokens) for each in every))
    return table


def _shown(share: Share | None, digits: int = 3) -> str:
    return "-" if share is None else f"{share.mean:.{digits}f} [{share.low:.{digits}f}, {share.high:.{digits}f}]"
