"""A load in peace and under attacks, with progress, and what they did to honest devices, as a person reads it.

What does not live here: the figures (_hostile.py), and those of one load (_load_view.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.table import Table

from scripts._attacks import ATTACKS
from scripts._cli import console, progress
from scripts._hostile import Memory, Phase, phases
from scripts._load_plan import Plan, Target
from scripts._text import harmless


def attack(target: Target, plan: Plan, names: Sequence[str], check: Callable[[], object]) -> list[Phase]:
    """Attack a verifier, and print what comes of it; `check` is called all the time, and what it raises ends all.

    Raises:
        SyneraError: as of :func:`scripts._hostile.phases`.
    """
    seen: list[Phase] = []
    with progress() as bar:
        task = bar.add_task("", total=round(plan.warmup_seconds + plan.seconds))

        def tick(name: str, seconds: float) -> None:
            check()
            bar.update(task, description=name, completed=int(seconds))

        for each in phases(target, plan, names, tick):
            seen.append(each)
            told(each)
    console.print(table_of(seen))
    return seen


def told(phase: Phase) -> None:
    """Print how an attack's messages ended, and what else went wrong in a phase."""
    if (attacked := phase.attacked) is not None:
        ends = ", ".join(f"{number} x {name}" for name, number in sorted(attacked.ended.items(), key=lambda each: -each[1]))
        console.print(
            harmless(
                f"{phase.name}: {ATTACKS[phase.name].told} {attacked.sent} in {attacked.seconds:.1f} s, which took "
                f"{attacked.cpu_seconds / attacked.seconds:.2f} cores: {ends}"
            )
        )
    load = phase.load
    for what, found in (("refused", load.refusals), ("failed", load.errors)):
        if found:
            listed = ", ".join(f"{number} x {name}" for name, number in sorted(found.items()))
            console.print(f"{phase.name}: honest devices {what}: {listed}", style="yellow")
    if load.wrong:
        console.print(f"{phase.name}: {load.wrong} wrong answers", style="red")
    if phase.newcomer.problem:
        console.print(harmless(f"{phase.name}: a newcomer afterwards: {phase.newcomer.problem}"), style="red")


def table_of(phases: Sequence[Phase]) -> Table:
    """A row a phase; latencies are held against the first, which is quiet."""
    table = Table(
        title="honest devices under attack; times in ms, the verifier's memory, cores of this machine that are busy",
        title_justify="left",
    )
    heads = ("checks/s", "p50", "p95", "p95 / quiet", "wrong", "refused", "failed", "given up")
    for head in ("", *heads, "newcomer", "MB before", "MB most", "MB after", "cores"):
        table.add_column(head, justify="left" if not head else "right")
    quiet = phases[0].load.latency_ms
    for each in phases:
        load, latency = each.load, each.load.latency_ms
        ratio = "-" if latency is None or quiet is None else f"{latency.p95 / quiet.p95:.2f}"
        table.add_row(
            each.name,
            f"{load.checks_per_second:.1f}",
            *(("-", "-") if latency is None else (f"{latency.p50:.1f}", f"{latency.p95:.1f}")),
            ratio,
            str(load.wrong) if load.checked else "?",
            str(sum(load.refusals.values())),
            str(sum(load.errors.values())),
            str(load.counts.get("given_up", 0)),
            f"{each.newcomer.ms:.1f}" if not each.newcomer.problem else "ill",
            *_megabytes(each.memory),
            "-" if load.machine_cores is None else f"{load.machine_cores:.2f}",
        )
    return table


def _megabytes(memory: Memory) -> list[str]:
    return ["-" if each is None else f"{each / 1e6:.0f}" for each in (memory.before, memory.most, memory.after)]
