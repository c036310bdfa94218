"""What an evaluation writes down, and the table of a family of links.

What does not live here: the evaluation (evaluate.py), and the tables that all scripts share (_report.py).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict
from rich.table import Table

from agents.comparison import Estimate, covered_share, reward_difference, summarise_all
from agents.evaluation import Answered
from scripts._report import table
from scripts._systems import SystemName
from traces.links.trace import LinkTrace

_NO_MEANS = ("answers", "uncovered_rate")
"""What a summary holds beside the means."""


@dataclass(frozen=True)
class ControllerResult:
    """What came of one controller."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    bundle: str | None
    """Its folder; None for a rule."""
    covered_answers: int
    """Of its planned answers, those that it kept inside the recorded graphs."""
    uncovered_rate: float
    """Share of its planned answers that left the recorded graphs."""
    means: dict[str, float | None]
    """By metric (`synera_env.metrics.EpisodeMetrics`), None for one that no answer has, with 95 % intervals by prompt:
    quality_low, quality_high, reward_low, reward_high. Those kept stand for those lost (:mod:`agents.comparison`). Empty where
    none was kept."""
    reward_minus: dict[str, Estimate]
    """Mean reward of it minus that of another, by the other's name, with a 95 % interval by prompt; of a bundle or a
    controller that was named, where both kept answers."""


@dataclass(frozen=True)
class FamilyResult:
    """What came of the controllers on the links of one family."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    traces: int
    seconds: float
    """Of all its traces."""
    filled: dict[str, list[str]]
    """By series, the rules that made what was not recorded."""
    controllers: dict[str, ControllerResult]


@dataclass(frozen=True)
class Evaluation:
    """The JSON file of an evaluation; `traces.schemas.read_json` reads it back."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    graphs: str
    split: str
    device_profile: str
    cloud_profile: str
    seed: int
    planned_answers: int
    """Of each controller; with recorded links, of all families together."""
    controllers: dict[str, ControllerResult]
    """By name; a bundle's is its run's, with as much of its path as tells it from the others."""
    links: str | None = None
    """Where recorded links were read; None for the bundled ones."""
    workload: str | None = None
    """File of the requests beside the device's."""
    families: dict[str, FamilyResult] = field(default_factory=dict)
    """Of recorded links, by family, each with the same number of answers."""
    format_version: int = 3


def results_of(
    answered: Mapping[str, Sequence[Answered]],
    found: Mapping[str, Mapping[str, float]],
    bundles: Mapping[str, Path],
    reference: str,
    named: Collection[str] = (),
) -> dict[str, ControllerResult]:
    """Return what came of controllers.

    Args:
        answered: by controller, its outcomes of one plan.
        found: by controller that kept an answer, its summary.
        bundles: by name, those of the controllers that are bundles, and their folders.
        reference: the controller that bundles, and those named, are compared with.
        named: further controllers that the user named.
    """
    minus = {
        name: reward_difference(answered[name], answered[reference])
        for name in (*bundles, *named)
        if {name, reference} <= set(found)
    }
    return {
        name: ControllerResult(
            bundle=str(bundles[name]) if name in bundles else None,
            covered_answers=sum(a.metrics is not None for a in outcomes),
            uncovered_rate=1 - covered_share(outcomes),
            means={key: _known(value) for key, value in found.get(name, {}).items() if key not in _NO_MEANS},
            reward_minus={reference: minus[name]} if name in minus else {},
        )
        for name, outcomes in answered.items()
    }


def family_table(
    family: str,
    links: Sequence[LinkTrace],
    answered: Mapping[str, Sequence[Answered]],
    answers: int,
    system: SystemName = "synera",
) -> Table:
    """Return the table of a family of links: who they are, and controllers x metrics."""
    seconds, filled = sum(link.seconds for link in links), sorted({name for link in links for name in link.filled})
    made = f"; filled by rule: {', '.join(filled)}" if filled else ""
    summaries = {name: {"replay": summary} for name, summary in summarise_all(answered).items()}
    return table(summaries, f"{family}, {len(links)} trace(s) of {seconds:.0f} s{made}; {answers} answers", system)


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
