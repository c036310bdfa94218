"""Reproduce a paper's table in simulation, row by row beside the paper's figures.

`hat`: the ablation of HAT (arXiv 2503.18989) on SpecBench with Vicuna-7B: time to first token (TTFT) and between tokens (TBT) of
five methods. Nothing is run but a simulation: devices with their links share one cloud, whose batches the verifier's own scheduler
plans. Of its constants some are the paper's, some follow from those, some are our assumptions, and six are fitted to the very table;
the output says which is which, and also what the constants guess right that were fitted to some of the rows, or to none.

With another load, link or prompt length the same simulation answers "what if"; there is no figure of the paper to hold that against.

Examples:
    synera reproduce hat                                         # the table; --picture hat.png draws it
    synera reproduce hat --uplink-mbps 20                        # what if the uplink had 20 Mbit/s (the paper: 40 to 80)
    synera reproduce hat --devices 10 --prompt-tokens 2000 --rows u-shape both
    synera reproduce hat --rate 3 --json runs/hat.json
    synera reproduce hat --fit                                   # find the fitted constants again: many minutes
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, cast

import tyro

from runtime.errors import SettingError
from runtime.settings import whole, within
from scripts._cli import check_output, check_seed, console, launch, progress, say
from scripts._report import check_picture
from scripts._reproduced import View, draw, show, show_what_if
from synera_env import write_json
from traces.hat.ablation import methods_of, one_device_speedup, simulated
from traces.hat.fit import MOST_TRIALS, fit
from traces.hat.run import Load
from traces.hat.testbed import FITTED, FITTED_TO_SOME, GUESSED, METHODS, SOME_ROWS, Fitted, Testbed

Row = Literal["u-shape", "chunking", "speculative", "both", "parallel"]
_ROWS = cast("tuple[Row, ...]", tuple(method.key for method in METHODS))
_VIEW_SEEDS = 2
"""Of the tables with other constants, which are there for comparison."""


@dataclass(frozen=True)
class Arguments:
    """Reproduce a paper's table."""

    paper: tyro.conf.Positional[Literal["hat"]]
    """Whose."""
    rows: tuple[Row, ...] = _ROWS
    """Of the table."""
    devices: int | None = None
    """What if so many devices asked, each again as soon as it is answered; instead of requests at a rate."""
    rate: float | None = None
    """What if so many requests came a second; else as many as were fitted."""
    uplink_mbps: float | None = None
    """What if uplinks had so many Mbit/s; else those of the paper."""
    prompt_tokens: int | None = None
    """What if every prompt had so many tokens; else lengths are drawn as SpecBench's."""
    seeds: int = 6
    """Runs of each row."""
    answers: int = 120
    """That are counted in each run."""
    seed: int = 0
    """Of the first run."""
    fit: bool = False
    """First fit the constants again, once to all rows and once to some; takes many minutes."""
    picture: Path | None = None
    """Also draw the figures here; .png, .pdf or .svg."""
    json: Path | None = None
    """Also write the figures and constants here."""

    def __post_init__(self) -> None:
        whole("seeds", self.seeds, 1, 1_000)
        check_seed(self.seed)
        methods_of(self.rows)
        if self.uplink_mbps is not None:
            within("uplink_mbps", self.uplink_mbps, 0.1, 10_000)
        if self.devices is not None and self.rate is not None:
            raise SettingError("devices ask again when they are answered, and so have no rate; leave out one of the two")
        self.load(FITTED)
        if self.picture is not None:
            check_picture(self.picture)
            if self.json is not None and os.path.realpath(self.json) == os.path.realpath(self.picture):
                raise SettingError("json must be a file of its own, as what is there is replaced; so must picture")

    @property
    def what_if(self) -> bool:
        """Whether it is another setting than the paper's."""
        return any(each is not None for each in (self.devices, self.rate, self.uplink_mbps, self.prompt_tokens))

    def load(self, fitted: Fitted) -> Load:
        """Who asks."""
        if self.devices is not None:
            return Load(devices=self.devices, prompt_tokens=self.prompt_tokens, answers=self.answers)
        rate = fitted.requests_per_second if self.rate is None else self.rate
        return Load(rate=rate, prompt_tokens=self.prompt_tokens, answers=self.answers)


def main(arguments: Arguments) -> None:
    """Simulate, print, draw.

    Raises:
        SyneraError: a file cannot be written.
    """
    for path in (arguments.json, arguments.picture):
        if path is not None:
            check_output(path)
    fitted, to_some = _fits() if arguments.fit else (FITTED, FITTED_TO_SOME)
    methods, seeds = methods_of(arguments.rows), range(arguments.seed, arguments.seed + arguments.seeds)
    testbed, load = Testbed.of(fitted), arguments.load(fitted)
    if arguments.uplink_mbps is not None:
        testbed = testbed.with_uplink(arguments.uplink_mbps * 1e6 / 8)
    others = {} if arguments.what_if else {f"fitted to {' and '.join(SOME_ROWS)}": to_some, "not fitted (guesses)": GUESSED}
    few = seeds[:_VIEW_SEEDS]
    with progress() as bar:
        task = bar.add_task("simulate", total=len(methods) * (len(seeds) + len(few) * len(others)))
        rows = simulated(methods, testbed, load, seeds, lambda: bar.advance(task))
        views = [
            View(name, simulated(methods, Testbed.of(each), arguments.load(each), few, lambda: bar.advance(task)))
            for name, each in others.items()
        ]
    if arguments.what_if:
        show_what_if(rows, testbed, load)
    else:
        show(rows, views, testbed, fitted, one_device_speedup(testbed, few))
    if arguments.picture is not None:
        draw(rows, arguments.picture, paper=not arguments.what_if)
        say("picture", str(arguments.picture))
    if arguments.json is not None:
        found = {"simulated": True, "rows": [asdict(row) for row in rows], "fitted": asdict(fitted), "testbed": asdict(testbed)}
        views_found = {view.name: [asdict(row) for row in view.rows] for view in views}
        write_json(arguments.json, {**found, "load": asdict(load), "views": views_found})
        say("figures", str(arguments.json))
    say("next", "synera reproduce hat" if arguments.what_if else "synera reproduce hat --uplink-mbps 20   # what if")


def _fits() -> tuple[Fitted, Fitted]:
    """Fit to some rows, begun at the guesses, and from there to all; return the fit to all first."""
    with progress() as bar:

        def fitted(keys: Sequence[str], start: Fitted) -> Fitted:
            task = bar.add_task(f"fit to {len(keys)} rows (at most)", total=MOST_TRIALS)
            found = fit(methods_of(keys), start, each=lambda: bar.advance(task))
            console.print(f"fitted to {', '.join(keys)}: {found}")
            return found

        to_some = fitted(SOME_ROWS, GUESSED)
        return fitted(_ROWS, to_some), to_some


if __name__ == "__main__":
    launch(Arguments, main, __doc__)
