"""A load test's figures as a person reads them: a table a load, a table of several, and a picture.

What does not live here: the figures (_load_result.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from scripts._cli import console
from scripts._load_result import LoadResult, Quantiles
from scripts._report import write_figure
from scripts._text import harmless


def show(result: LoadResult) -> None:
    """Print one load."""
    table = Table(title=f"{_load(result)}, {result.seconds:g} s", title_justify="left")
    table.add_column("", no_wrap=True)
    for head in ("count", "mean", "p50", "p95", "p99", "most"):
        table.add_column(head, justify="right")
    for name, found in _rows(result).items():
        if found is not None:
            figures = (found.mean, found.p50, found.p95, found.p99, found.most)
            table.add_row(name, str(found.count), *(f"{value:.4g}" for value in figures))
    console.print(table)
    accepted = "" if result.acceptance is None else f" ({result.acceptance:.1%} of the drafts accepted)"
    console.print(
        f"{result.checks_per_second:.1f} checks/s; {result.verified_tokens_per_second:.0f} verified and "
        f"{result.committed_tokens_per_second:.0f} committed tokens/s{accepted}; {result.requests_per_second:.1f} requests/s; "
        f"{result.counts.get('answers', 0)} answers to their end"
    )
    if result.streams is not None:
        console.print(f"streams: {result.streams.requests} begun and ended, {result.streams.tokens_per_second:.0f} tokens/s")
    told(result)


def told(result: LoadResult, name: str = "") -> None:
    """Print what went wrong in a load, and what the load generator took for it; `name` begins the first line."""
    checked = f"{result.wrong} of {result.counts['checked']}" if result.checked else "not known"
    console.print(f"{name}wrong answers: {checked}", style="red" if result.wrong else None)
    for what, found in (("refused", result.refusals), ("failed", result.errors), ("answers", _ill(result.counts))):
        if found:
            console.print(
                f"{what}: {', '.join(f'{number} x {name}' for name, number in sorted(found.items()))}", style="yellow"
            )
    took = result.generator
    each = "" if took.cpu_ms_per_request is None else f", {took.cpu_ms_per_request:.2f} ms a request"
    cost = result.verifier_cpu_ms_per_check
    verifier = "" if cost is None else f"; verifier: {result.verifier_cores:.2f} cores, {cost:.2f} ms a check"
    machine = "" if result.machine_cores is None else f"; all on this machine: {result.machine_cores:.2f} cores"
    console.print(
        f"load generator: {took.processes} process(es), {took.cpu_cores:.2f} cores (busiest {took.busiest_cores:.2f}){each}"
        f"{verifier}{machine}"
    )
    if took.warning:
        console.print(f"doubtful: {took.warning}", style="yellow")


def table_of(results: Sequence[LoadResult]) -> Table:
    """A row a load."""
    table = Table(title="by load; latencies in ms", title_justify="left")
    heads = ("p50", "p95", "p99", "queue p50", "compute p50", "load", "batch tokens", "refused", "failed", "wrong", "own cores")
    for head in ("answers/s" if results[0].open_loop else "devices", "checks/s", "verified tok/s", "committed tok/s", *heads):
        table.add_column(head, justify="right")
    for each in results:
        latency = each.latency_ms
        table.add_row(
            f"{each.load:.4g}",
            f"{each.checks_per_second:.1f}",
            f"{each.verified_tokens_per_second:.0f}",
            f"{each.committed_tokens_per_second:.0f}",
            *(
                "-" if latency is None else f"{value:.1f}"
                for value in ((latency.p50, latency.p95, latency.p99) if latency else "---")
            ),
            *(f"{each_.p50:.1f}" if each_ else "-" for each_ in (each.queue_ms, each.compute_ms)),
            *(f"{each_.mean:.1f}" if each_ else "-" for each_ in (each.cloud_load, each.batch_tokens)),
            str(sum(each.refusals.values())),
            str(sum(each.errors.values())),
            str(each.wrong) if each.checked else "?",
            f"{each.generator.cpu_cores:.2f}{' !' if each.generator.warning else ''}",
        )
    return table


def draw(results: Sequence[LoadResult], path: Path, title: str) -> None:
    """Draw latency and throughput against the load.

    Raises:
        TraceError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (latency, tokens, both) = plt.subplots(1, 3, figsize=(14, 4.5), dpi=110)
    loads = [each.load for each in results]
    known = [each for each in results if each.latency_ms is not None]
    for name in ("p50", "p95", "p99"):
        values = [getattr(each.latency_ms, name) for each in known]
        latency.plot([each.load for each in known], values, ".-", label=name, linewidth=1.2)
        if name != "p99":
            both.plot([each.committed_tokens_per_second for each in known], values, ".-", label=name, linewidth=1.2)
    tokens.plot(loads, [each.committed_tokens_per_second for each in results], ".-", label="committed", linewidth=1.2)
    tokens.plot(loads, [each.verified_tokens_per_second for each in results], ".-", label="verified", linewidth=1.2)
    for each in (each for each in known if each.generator.warning):
        latency.plot(each.load, each.latency_ms.p95, "x", color="red")  # type: ignore[union-attr]
    x = "answers that begin a second" if results[0].open_loop else "devices"
    for panel, across, up in (
        (latency, x, "verify latency, ms"),
        (tokens, x, "tokens/s"),
        (both, "committed tokens/s", "verify latency, ms"),
    ):
        panel.set_xlabel(across)
        panel.set_ylabel(up)
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    doubtful = (
        "; x: doubtful, as the load generator or the machine was too busy"
        if any(each.generator.warning for each in known)
        else ""
    )
    figure.suptitle(harmless(f"{title}{doubtful}"), fontsize=10, parse_math=False)
    write_figure(figure, path)


def _load(result: LoadResult) -> str:
    return f"{result.load:.4g} answers/s that arrive" if result.open_loop else f"{result.load:g} device(s) in a closed loop"


def _rows(result: LoadResult) -> dict[str, Quantiles | None]:
    streams = result.streams
    return {
        "verify latency, ms": result.latency_ms,
        "  queue, as answered": result.queue_ms,
        "  compute, as answered": result.compute_ms,
        "  the rest": result.other_ms,
        "open, ms": result.open_ms,
        "whole answer, ms": result.answer_ms,
        "load, requests": result.cloud_load,
        "tokens of a check's batch": result.batch_tokens,
        "stream TTFT, ms": streams.ttft_ms if streams else None,
        "stream TBT, ms": streams.tbt_ms if streams else None,
        "sent late, ms": result.generator.late_ms,
    }


def _ill(counts: Mapping[str, int]) -> dict[str, int]:
    """What of the counts a user should know of."""
    names = {"given_up": "given up", "reopened": "session opened again", "unanswered": "unanswered at the end"}
    return {said: counts[name] for name, said in names.items() if counts.get(name)}
