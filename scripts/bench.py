"""Measure the speed of one area, each figure beside a named peer in the same run.

Examples:
    synera bench device
    synera bench device --json runs/bench/device.json --repetitions 60
    synera bench cloud --pair my_pair --threads 4
    synera bench faults --repetitions 200
    synera bench hat-faults --repetitions 100
    synera bench growth --repetitions 50
    synera bench record --threads 2 --repetitions 10
    synera bench agents --threads 2                 # an hour or more; what it made in runs/bench-agents is kept

A value of 2 "x as fast" means half the peer's time. Ours and the peer take turns, so a busy machine slows both; the
value is the median over the turns. `precision` counts differences instead, `exits` shows quality beside time, `sampling` bytes and
acceptance, `stall-free` simulated and paced seconds, `faults` and `hat-faults` what becomes of so many answers whose cloud fails at a
random moment, `growth` what a training costs whose graphs grow, `hat` what live devices of a split model gain over the plain U shape,
`agents` whether trained controllers beat the rules. A missed goal is shown and is no failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

import tyro
from rich.table import Table
from rich.text import Text

from runtime.errors import SettingError
from runtime.settings import shown, within
from scripts._cli import check_output, console, launch
from scripts.benchmarks.harness import Figure, Setting, write_figures
from traces import bundled

_MOST_REPETITIONS, _MOST_THREADS = 1_000_000, 1024


@dataclass(frozen=True)
class Arguments:
    """Arguments of `bench.py`."""

    area: tyro.conf.Positional[
        Literal[
            "device",
            "cloud",
            "cloud-soak",
            "env",
            "precision",
            "exits",
            "stall-free",
            "sampling",
            "faults",
            "hat-faults",
            "record",
            "growth",
            "agents",
            "hat",
        ]
    ]
    """What to measure."""
    json: Path | None = None
    """File to write the figures to: a list of name, value, unit, goal, better, peer."""
    pair: Path = bundled.PAIR
    """Folder with the model folders slm/ and llm/."""
    repetitions: int = 30
    """Pairs of timings behind each figure; for `precision` and `sampling`, prompts; for `faults`, answers that meet one; for
    `hat-faults`, answers, of which at most that many meet one; for `hat`, answers of each device;
    for `growth`, thousands of training steps; for `cloud-soak`, thousands of checks; for `agents`, eights of answers in each scenario."""
    threads: int = 1
    """Threads that tensor arithmetic may use, ours and the peer's alike; for `record`, batches of prompts side by side; for
    `agents`, trainings."""
    before: str = ""
    """For `record` alone: an earlier state of this project to compare with, a commit or a folder; by default the last commit
    before its recorder, where the history is here."""

    def __post_init__(self) -> None:
        within("repetitions", self.repetitions, 1, _MOST_REPETITIONS)
        within("threads", self.threads, 1, _MOST_THREADS)
        if self.before and self.area != "record":
            raise SettingError(f"before={shown(self.before)} is for the area record, not for {self.area}")


def main(arguments: Arguments) -> None:
    """Measure, print, write.

    Raises:
        SyneraError: the models cannot be used.
        SettingError: the area has no figures.
    """
    if arguments.json is not None:
        check_output(arguments.json)
    setting = Setting(arguments.pair, arguments.repetitions, arguments.threads, arguments.before)
    figures: list[Figure] = import_module(f"scripts.benchmarks.{arguments.area.replace('-', '_')}").measure(setting)
    if not figures:
        raise SettingError(f"the area {arguments.area!r} has no figures for {arguments.pair}")
    if arguments.json is not None:
        write_figures(figures, arguments.json)
    console.print(_table(arguments.area, setting, figures))


def _table(area: str, setting: Setting, figures: list[Figure]) -> Table:
    table = Table(title=f"{area}: {setting.repetitions} repetitions, {setting.threads} thread(s)", title_justify="left")
    for heading in ("figure", "value", "goal", "", "peer and medians"):
        table.add_column(heading, justify="right" if heading in ("value", "goal") else "left", overflow="fold")
    for figure in figures:
        sign = "≥" if figure.better == "higher" else "≤"
        goal = "" if figure.goal is None else f"{sign} {figure.goal:g}"
        mark = Text("met", style="green") if figure.met else Text("missed", style="red")
        table.add_row(figure.name, f"{figure.value:.2f} {figure.unit}", goal, mark if goal else "", figure.peer)
    return table


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
