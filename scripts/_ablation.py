"""What `evaluate --ablation` shows: tables of the criteria, of the figures of a draft, and of what one decision is worth, a
picture, the figures as JSON.

What does not live here: the measurement (agents/ablation.py, agents/signals.py, agents/utility.py) and the command's arguments (evaluate.py).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ConfigDict
from rich.table import Table

from agents.ablation import COMMON_RATES, RANDOM, Ablation, Curve, ablate, count_rules
from agents.comparison import ADVICE
from agents.signals import OFFLOAD_RATE, UNCERTAIN, Signals, measure_signals
from agents.utility import Utility
from scripts import _utility
from scripts._cli import console, progress, say
from scripts._report import ablation_picture
from synera_env import SyneraReplayEnv, write_json

_GOOD_ENOUGH = 0.01
"""A rule may lose so much quality against always and still be named as what to deploy."""


@dataclass(frozen=True)
class AblationFile:
    """The JSON file of an ablation; `traces.schemas.read_json` reads it back."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    graphs: str
    split: str
    seed: int
    ablation: Ablation
    signals: Signals
    utility: Utility
    format_version: int = 2


def run(train: SyneraReplayEnv, test: SyneraReplayEnv, answers: int, seed: int, picture: Path, json: Path | None) -> str:
    """Measure, print, draw, write; return the name of the rule that is worth deploying.

    Raises:
        UncoveredError: no answer stays inside the recorded graphs.
    """
    with progress() as bar:
        task = bar.add_task("ablation", total=count_rules() + 3 * answers)
        found = ablate(train, test, answers, seed, lambda: bar.advance(task))
        signals = measure_signals(test, answers, seed, lambda: bar.advance(task))
        graphs = (train.graphs, test.graphs)
        utility = _utility.measured(*graphs, test.device, test.cloud, answers, seed, lambda: bar.advance(task))
    split = test.graphs.meta.split
    console.print(
        _curves(found, f"quality by offload rate, {found.planned_answers} answers to {found.prompts} {split} prompts")
    )
    console.print(
        "levels are found on the training prompts; quality on straight lines between the measured rates; 95 % intervals by prompt, differences paired"
    )
    console.print(_signals(signals))
    console.print(_worth(utility, split))
    if min(found.least_covered, signals.covered) < 1:
        console.print(
            f"the rule that loses most keeps {found.least_covered:.1%} of its answers inside the recorded graphs, and those stand for "
            f"the others; {signals.covered:.1%} of the chunks could be settled both ways, and the others are left out: {ADVICE}",
            style="yellow",
        )
    rule = worth_deploying(found.curves[found.best()])
    title = f"Which chunks to offload: replay on {found.prompts} {split} prompts, no outages"
    ablation_picture(found.curves, picture, title)
    say("picture", str(picture))
    if json is not None:
        write_json(json, asdict(AblationFile(str(test.graphs.path), split, seed, found, signals, utility)))
        say("figures", str(json))
    return rule


def worth_deploying(curve: Curve) -> str:
    """The rule that offloads least of those that are nearly as good as always."""
    always = curve.points[-1].quality.mean
    return next(point.rule for point in curve.points if point.quality.mean >= always - _GOOD_ENOUGH)


def _curves(found: Ablation, title: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column("criterion", no_wrap=True)
    heads = [f"at {rate:g}" for rate in COMMON_RATES]
    for head in (*heads, "area under the curve", "minus random", "minus confidence"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, curve in found.curves.items():
        at = [f"{estimate.mean:.3f}" for estimate in curve.quality_at.values()]
        minus = [f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]" for d in (curve.area_minus_random, curve.area_minus_confidence)]
        own = (name == RANDOM, name == "confidence")
        table.add_row(name, *at, str(curve.area), *("" if same else text for same, text in zip(own, minus, strict=True)))
    return table


def _signals(found: Signals) -> Table:
    title = (
        f"how well a figure ranks {found.chunks} chunks (0.5 is chance): the LLM would reject {found.rejected:.1%} of them, "
        f"{found.matters:.1%} cost score when kept; met at offload rate {OFFLOAD_RATE:g}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("figure", no_wrap=True)
    for head in ("is rejected", "costs score", f"costs score, of the {UNCERTAIN:.0%} least confident"):
        table.add_column(head, justify="right", no_wrap=True)
    for name, signal in found.figures.items():
        areas = (signal.rejected, signal.matters, signal.matters_uncertain)
        table.add_row(name, *("unknown" if area is None else str(area) for area in areas))
    return table


def _worth(found: Utility, split: str) -> Table:
    table = Table(title=_utility.title(found, split), title_justify="left")
    for head in _utility.HEADS:
        table.add_column(head, justify="left" if head == _utility.HEADS[0] else "right", no_wrap=True)
    for row in _utility.rows(found):
        table.add_row(*row)
    return table
