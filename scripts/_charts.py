"""Pictures of a contest, as PNG: rewards, rliable's aggregates, fronts over preferences, differences by scenario, two worlds.

What does not live here: the figures (agents/), and single answers (_told.py).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agents.aggregates import Aggregates, Means
from agents.comparison import Estimate
from agents.fronts import points_of
from agents.ranking import Ranked
from scripts._document import Picture
from scripts._text import harmless

_DPI = 90
_LONGEST = 34  # characters of a name
_MARKERS, _LINES = "os^vDPX*", ("-", "--", ":", "-.")  # a colour returns after ten, with another of these


def label(name: str) -> str:
    """A name as a picture shows it: cut, and without what acts on anything."""
    line = harmless(name).replace("\n", " ")
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST - 1]}…"


def rewards(means: Sequence[tuple[str, Estimate]]) -> Picture:
    """A dot and its interval a controller."""
    return _painted(
        "rewards",
        "Mean reward over all scenarios, 95 % intervals over prompts and training seeds",
        (8, 0.8 + 0.32 * len(means)),
        lambda figure: _dots(figure.subplots(), means, "reward"),
    )


def aggregates(found: Aggregates) -> Picture:
    """Interquartile means, and performance profiles."""

    def paint(figure: Figure) -> None:
        dots, profiles = figure.subplots(1, 2)
        _dots(dots, sorted(found.iqm.items(), key=lambda each: each[1].mean), "interquartile mean of normalised scores")
        for number, (name, (share, low, high)) in enumerate(found.profiles.items()):
            (line,) = profiles.plot(found.thresholds, share, _LINES[number // 10 % 4], linewidth=1.2, label=label(name))
            profiles.fill_between(found.thresholds, low, high, color=line.get_color(), alpha=0.1, linewidth=0)
        profiles.set_xlabel("normalised score t")
        profiles.set_ylabel("share of runs x tasks above t")
        profiles.grid(alpha=0.3)
        _legend(profiles)

    caption = "rliable: interquartile means, and performance profiles, with 95 % stratified bootstrap intervals"
    return _painted("aggregates", caption, (12, max(4.5, 1.2 + 0.3 * len(found.iqm))), paint)


def fronts(means: Means, names: Sequence[str]) -> Picture:
    """Quality against seconds and cloud seconds, a line a controller over preferences."""

    def paint(figure: Figure) -> None:
        for axes, cost in zip(figure.subplots(1, 2, sharey=True), ("seconds", "cloud_seconds"), strict=True):
            for number, name in enumerate(names):
                if (points := points_of(means, name, cost)) is None:
                    continue
                order = np.argsort(points.costs[:, 0])
                at, quality = points.costs[order, 0], points.quality[order, 0]
                style = {
                    "marker": _MARKERS[number // 10 % 8],
                    "linestyle": _LINES[number // 10 % 4],
                    "color": f"C{number % 10}",
                }
                axes.plot(at, quality, markersize=5, linewidth=1, label=label(name), **style)
            axes.set_xlabel({"seconds": "seconds an answer", "cloud_seconds": "cloud seconds an answer"}[cost])
            axes.grid(alpha=0.3)
        axes.figure.axes[0].set_ylabel("quality (mean task score)")
        _legend(axes)

    return _painted(
        "fronts",
        "Operating points over preferences, each the mean over links and loads; lines join those of one controller",
        (12, 5),
        paint,
    )


def differences(means: Means, names: Sequence[str], reference: str) -> Picture:
    """A heat map: controllers x scenarios, reward minus that of the reference; dots where the interval holds 0."""
    scenarios = [scenario.name for scenario in means.contest.scenarios]
    found = [[means.difference(name, reference, scenarios=[scenario]) for scenario in scenarios] for name in names]
    values = np.array([[np.nan if each is None else each.mean for each in row] for row in found])

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        most = float(np.nanmax(np.abs(values), initial=0.01)) if np.isfinite(values).any() else 0.01
        colours = colormaps["RdBu"].with_extremes(bad="#dddddd")
        image = axes.imshow(np.ma.masked_invalid(values), cmap=colours, vmin=-most, vmax=most, aspect="auto")
        for row, line in enumerate(found):
            for column, each in enumerate(line):
                if each is not None and each.low <= 0 <= each.high:
                    axes.plot(column, row, ".", color="black", markersize=3)
        axes.set_yticks(range(len(names)), [label(name) for name in names], fontsize=8, parse_math=False)
        axes.set_xticks(range(len(scenarios)), [label(name) for name in scenarios], rotation=90, fontsize=7, parse_math=False)
        figure.colorbar(image, ax=axes, label="reward minus the reference's", fraction=0.03)

    caption = f"Reward minus that of {reference}, by scenario: blue is better; a dot where the 95 % interval holds 0"
    size = (2.5 + max(5.0, 0.24 * len(scenarios)), 2.6 + 0.28 * len(names))
    return _painted("differences", caption, size, paint)


def worlds(ranked: Ranked) -> Picture:
    """Rewards live against replay, a mark a controller."""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for number, (name, (replay, live)) in enumerate(ranked.rewards.items()):
            spans = (
                [[replay.mean - replay.low], [replay.high - replay.mean]],
                [[live.mean - live.low], [live.high - live.mean]],
            )
            axes.errorbar(
                replay.mean,
                live.mean,
                spans[1],
                spans[0],
                fmt=_MARKERS[number // 10 % 8],
                color=f"C{number % 10}",
                label=label(name),
            )
        low, high = min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])
        axes.plot([low, high], [low, high], color="dimgray", linewidth=0.8)
        axes.set_xlabel("reward, replay")
        axes.set_ylabel("reward, live")
        axes.grid(alpha=0.3)
        _legend(axes)

    return _painted("worlds", f"Replay against live; Spearman's rank correlation {ranked.correlation:.3f}", (7, 5.5), paint)


# ---------------------------------------------------------------- pieces


def _painted(name: str, caption: str, size: tuple[float, float], paint: Callable[[Figure], None]) -> Picture:
    figure, content = Figure(figsize=size, dpi=_DPI, layout="constrained"), io.BytesIO()
    paint(figure)
    figure.savefig(content, format="png", metadata={"Software": None})
    return Picture(name, caption, content.getvalue())


def _dots(axes: Axes, means: Sequence[tuple[str, Estimate]], what: str) -> None:
    for row, (_, each) in enumerate(means):
        axes.plot([each.low, each.high], [row, row], color="C0", linewidth=1.5)
        axes.plot(each.mean, row, "o", color="C0", markersize=5)
    axes.set_yticks(range(len(means)), [label(name) for name, _ in means], fontsize=8, parse_math=False)
    axes.set_xlabel(what)
    axes.grid(alpha=0.3, axis="x")


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        for text in axes.legend(fontsize=7, loc="best").get_texts():
            text.set_parse_math(False)  # a name may hold dollar signs
