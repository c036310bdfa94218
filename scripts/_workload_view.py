"""A workload as `inspect-trace` shows it: its figures, and a picture of how many requests come, how far apart, and how long they are.

What does not live here: its figures (traces/workload/trace.py) and pictures of results (_report.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from scripts._cli import console
from scripts._text import harmless
from traces.files import replacing
from traces.workload.trace import Workload

_STRETCHES = 200
"""Over which the rate is averaged, in a whole period."""


def show(workload: Workload) -> None:
    """Print what a workload amounts to."""
    found = workload.figures
    console.print(f"{harmless(workload.name)}: {harmless(workload.source)}")
    console.print(
        f"{found.requests} requests in {found.span_seconds:.0f} s, {found.rate:.3g} a second; gaps between them vary by "
        f"{found.gap_cv:.3g} times their mean (1: Poisson, more: bursts)"
    )
    for what, spread in (("context", found.context), ("generated", found.generated)):
        console.print(
            f"{what} tokens: mean {spread.mean:.0f}, median {spread.p50:.0f}, 95th percentile {spread.p95:.0f}, "
            f"most {spread.most:.0f}"
        )


def draw(workload: Workload, path: Path) -> None:
    """Draw the rate over time, and the distribution functions of gaps (beside Poisson's) and of tokens.

    Raises:
        TraceError: the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (rate, gaps, tokens) = plt.subplots(1, 3, figsize=(14, 4), dpi=110)
    edges = np.linspace(0.0, workload.seconds, _STRETCHES + 1)
    counted, _ = np.histogram(workload.arrival_seconds, edges)
    rate.stairs(counted / np.diff(edges), edges, linewidth=0.8)
    rate.axhline(workload.rate, color="dimgray", linewidth=0.8, linestyle=":")
    rate.set_xlabel(f"seconds, in {_STRETCHES} stretches")
    rate.set_ylabel("requests/s")
    between = np.sort(np.diff(workload.arrival_seconds))
    share = np.linspace(0.0, 1.0, max(1, len(between)))
    if len(between):
        gaps.step(between, share, where="post", label="workload")
        gaps.plot(between, 1 - np.exp(-workload.rate * between), linestyle=":", color="dimgray", label="Poisson, same rate")
        gaps.legend(fontsize=8)
    gaps.set_xscale("symlog", linthresh=0.1 / workload.rate)
    gaps.set_xlabel("seconds between requests")
    gaps.set_ylabel("share of gaps up to it")
    for name in ("context", "generated"):
        series = np.sort(getattr(workload, f"{name}_tokens"))
        tokens.step(series, np.linspace(0.0, 1.0, len(series)), where="post", label=name)
    tokens.set_xscale("symlog", linthresh=1)
    tokens.set_xlabel("tokens of a request")
    tokens.set_ylabel("share of requests up to it")
    tokens.legend(fontsize=8)
    for panel in (rate, gaps, tokens):
        panel.grid(alpha=0.3)
    figure.suptitle(harmless(f"{workload.name}: {len(workload)} requests"), fontsize=10, parse_math=False)
    figure.tight_layout()
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix(".").lower())
    plt.close(figure)
