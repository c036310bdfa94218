"""The paper's ablation, simulated: rows over several seeds, with intervals, beside the paper's figures.

What does not live here: a single run (simulation.py), the constants (testbed.py), and how they were fitted (fit.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy.stats import t as student

from runtime.errors import SettingError
from runtime.settings import shown
from traces.hat.run import Load, Run
from traces.hat.simulation import Simulation
from traces.hat.testbed import METHODS, Method, Testbed

BAR = 0.1
"""Largest relative difference from the paper's figure that is called reproduced."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its 95 % interval, Student's; of one seed the interval is the mean."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Estimate from a value a seed, at least one."""
        mean = fmean(values)
        reach = student.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        return cls(mean, mean - float(reach), mean + float(reach))


@dataclass(frozen=True)
class Row:
    """A method as simulated."""

    method: Method
    ttft_ms: Estimate
    tbt_ms: Estimate
    busy: float
    """Share of the time in which the cloud ran a forward."""
    chunk_tokens: float
    """Mean size of what prompts were sent in."""
    accept_length: float
    """Tokens a verification; 1 without drafts."""
    under_way: float
    """Answers at a time."""

    @property
    def ttft_off(self) -> float:
        """Relative difference from the paper's."""
        return self.ttft_ms.mean / self.method.ttft_ms - 1

    @property
    def tbt_off(self) -> float:
        """Relative difference from the paper's."""
        return self.tbt_ms.mean / self.method.tbt_ms - 1

    @property
    def within_bar(self) -> bool:
        """Whether both figures are reproduced."""
        return max(abs(self.ttft_off), abs(self.tbt_off)) <= BAR


def methods_of(keys: Sequence[str]) -> tuple[Method, ...]:
    """Return rows of the table by their keys, in the table's order.

    Raises:
        SettingError: there is no such row, or one is named twice, or none.
    """
    known = {each.key: each for each in METHODS}
    for key in keys:
        if key not in known:
            raise SettingError(f"rows: {shown(key)} is not one of {', '.join(known)}")
    if not keys or len(set(keys)) < len(keys):
        raise SettingError(f"rows={shown(list(keys))} must name one or more rows, each once")
    return tuple(each for each in METHODS if each.key in keys)


def simulated(
    methods: Sequence[Method],
    testbed: Testbed,
    load: Load,
    seeds: Sequence[int],
    each: Callable[[], None] = lambda: None,
) -> list[Row]:
    """Simulate rows, each over the same seeds.

    Args:
        methods: of the table.
        testbed: its constants.
        load: who asks.
        seeds: of the runs, at least one.
        each: called after each run.
    """
    rows = []
    for method in methods:
        runs = []
        for seed in seeds:
            runs.append(Simulation(method, testbed, load, seed).run())
            each()
        rows.append(_row(method, runs))
    return rows


def one_device_speedup(testbed: Testbed, seeds: Sequence[int]) -> dict[str, float]:
    """How much faster one device alone decodes with drafts, by row's key: TBT of chunks alone over its TBT."""
    plain, *drafted = simulated(methods_of(("chunking", "both", "parallel")), testbed, Load(devices=1, answers=20), seeds)
    return {each.method.key: plain.tbt_ms.mean / each.tbt_ms.mean for each in drafted}


def _row(method: Method, runs: Sequence[Run]) -> Row:
    return Row(
        method,
        Estimate.of([1e3 * fmean(run.ttft_seconds) for run in runs]),
        Estimate.of([1e3 * fmean(run.tbt_seconds) for run in runs]),
        fmean(run.busy for run in runs),
        fmean(run.chunk_tokens for run in runs),
        fmean(run.accept_length for run in runs),
        fmean(run.under_way for run in runs),
    )
