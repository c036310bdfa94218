"""Tables and pictures of controllers' results, shared by the scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from agents.ablation import Curve
from agents.validation import Validated
from runtime.errors import SettingError
from scripts._systems import SystemName
from scripts._text import harmless
from traces.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scripts._document import Grid

_OFFLOAD = ("offload", "offload_rate", 1, 3)
_Columns = tuple[tuple[str, str, float, int], ...]
_COLUMNS: _Columns = (
    ("quality", "quality", 1, 3),
    ("TTFT ms", "ttft_seconds", 1e3, 0),
    ("TBT ms", "tbt_mean_seconds", 1e3, 1),
    ("TBT p95", "tbt_p95_seconds", 1e3, 0),
    ("s/answer", "seconds", 1, 2),
    _OFFLOAD,
    ("cloud s", "cloud_seconds", 1, 3),
    ("reward", "reward", 1, 3),
)
_UPLOADS: _Columns = (("uploads", "chunks", 1, 1), ("accepted", "acceptance_rate", 1, 3), ("kB up", "uplink_bytes", 1e-3, 1))
_UNCOVERED = ("uncovered", "uncovered_rate", 1, 3)
_PICTURES = (".png", ".pdf", ".svg")

Summaries = Mapping[str, Mapping[str, Mapping[str, float]]]
"""controller -> world ("replay", "live") -> metric -> mean."""


def table(summaries: Summaries, title: str, system: SystemName = "synera") -> Table:
    """Controller x metrics; with two worlds each cell is replay / live. Reward has its 95 % interval.

    With replay alone, which may lose answers, there is a column for what each controller lost. HAT, which uploads at every step and
    whose graphs are whole, has columns of its uploads instead.
    """
    columns = _COLUMNS
    if system == "hat":
        place = _COLUMNS.index(_OFFLOAD)
        columns = (*_COLUMNS[:place], *_UPLOADS, *_COLUMNS[place + 1 :])
    elif all(list(worlds) == ["replay"] for worlds in summaries.values()):
        columns = (*_COLUMNS, _UNCOVERED)
    out = Table(title=harmless(title))
    out.add_column("controller", no_wrap=True)
    for header, *_ in columns:
        out.add_column(header, justify="right", no_wrap=True)
    for name, worlds in summaries.items():
        cells = []
        for _, key, factor, digits in columns:
            cell = " / ".join("-" if isnan(w[key]) else f"{w[key] * factor:.{digits}f}" for w in worlds.values())
            if key == "reward":
                first = next(iter(worlds.values()))
                cell += f" [{first['reward_low']:.2f}, {first['reward_high']:.2f}]"
            cells.append(cell)
        out.add_row(harmless(name), *cells)
    return out


def plain_table(grid: Grid, intervals: int) -> Table:
    """A table of a report, for the console: of its columns so many keep their intervals."""
    out = Table(title=harmless(grid.title))
    for place, header in enumerate(grid.header):
        out.add_column(harmless(header), justify="right" if place else "left")
    for row in grid.rows:
        out.add_row(*(harmless(cell if place < intervals else cell.partition(" [")[0]) for place, cell in enumerate(row)))
    return out


def check_picture(path: Path) -> None:
    """Refuse a picture of a kind that is not drawn.

    Raises:
        SettingError: the name ends in another way than in .png, .pdf or .svg.
    """
    if path.suffix.lower() not in _PICTURES:
        raise SettingError(f"picture={path} must be a file whose name ends in {', '.join(_PICTURES)}")


def pareto_picture(summaries: Summaries, path: Path, title: str) -> None:
    """Quality against seconds an answer; one mark a controller and world, its area growing with cloud seconds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), dpi=130)
    colours = plt.get_cmap("tab10")
    markers: dict[str, Any] = {"replay": {"alpha": 0.35}, "live": {"edgecolors": "black", "linewidths": 0.8}}
    for i, (name, worlds) in enumerate(summaries.items()):
        for world, s in worlds.items():
            area = 40 + 1500 * s["cloud_seconds"]
            axes.scatter(s["seconds"], s["quality"], s=area, color=colours(i % 10), **markers.get(world, {}))
        axes.scatter(
            [], [], s=60, color=colours(i % 10), label=f"reward {list(worlds.values())[-1]['reward']:.2f}  {harmless(name)}"
        )
    axes.set_xlabel("seconds an answer")
    axes.set_ylabel("quality (mean task score)")
    axes.set_title(harmless(title), fontsize=10, parse_math=False)
    legend = axes.legend(
        loc="lower right",
        fontsize=8,
        title="controller (live reward)" if any("live" in w for w in summaries.values()) else "controller",
        title_fontsize=8,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may hold dollar signs
    axes.margins(0.12, 0.12)
    axes.grid(alpha=0.3)
    axes.text(
        0.01, 0.01, "area: cloud seconds; outlined: live, pale: replay", transform=axes.transAxes, fontsize=7, color="dimgray"
    )
    write_figure(figure, path)


def ablation_picture(curves: Mapping[str, Curve], path: Path, title: str) -> None:
    """Quality against offload rate, a line a criterion with its 95 % band, from never to always."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), dpi=110)
    for name, curve in curves.items():
        rates = [point.offload_rate for point in curve.points]
        low, mean, high = zip(*((p.quality.low, p.quality.mean, p.quality.high) for p in curve.points), strict=True)
        (line,) = axes.plot(rates, mean, ".-", markersize=4, linewidth=1.3, label=f"{name}  {curve.area.mean:.3f}")
        axes.fill_between(rates, low, high, color=line.get_color(), alpha=0.08, linewidth=0)
    for point, word, across in ((curve.points[0], "never", 8), (curve.points[-1], "always", -8)):
        at = (point.offload_rate, point.quality.mean)
        axes.plot(*at, "o", color="black", markersize=5)
        axes.annotate(word, at, (across, -14), textcoords="offset points", fontsize=8, ha="left" if across > 0 else "right")
    axes.set_xlabel("offload rate (offloaded chunks / chunks)")
    axes.set_ylabel("quality (mean task score)")
    axes.set_title(harmless(title), fontsize=10, parse_math=False)
    axes.legend(loc="lower right", fontsize=8, title="criterion, area under the curve", title_fontsize=8)
    axes.grid(alpha=0.3)
    write_figure(figure, path)


def write_figure(figure: Figure, path: Path) -> None:
    """Write a figure whole or not at all, and forget it."""
    from matplotlib import pyplot as plt

    figure.tight_layout()
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix(".").lower())
    plt.close(figure)


def validation_picture(alone: Sequence[Validated], together: Sequence[Validated], path: Path, title: str) -> None:
    """Seconds of each answer, live against replay; beside it, where given, the replay's error as devices share a verifier."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2 if together else 1, figsize=(11 if together else 6, 5), dpi=110, squeeze=False)
    scatter, *shared = panels[0]
    longest = max((s for v in alone for s in (*v.live_seconds, *v.replay_seconds)), default=1.0)
    scatter.plot([0, longest], [0, longest], color="dimgray", linewidth=0.8)
    for each in alone:
        error = each.agreement.replay_error.get("seconds", {"mean": float("nan")})
        label = harmless(f"{each.controller} (error {error['mean']:.1%})")
        scatter.scatter(each.replay_seconds, each.live_seconds, s=14, alpha=0.7, label=label)
    scatter.set_xlabel("seconds an answer, replay")
    scatter.set_ylabel("seconds an answer, live")
    for text in scatter.legend(fontsize=8).get_texts():
        text.set_parse_math(False)
    for panel in shared:
        numbers = [v.devices for v in together]
        for what, style in (("mean", "o-"), ("p95", "o:")):
            panel.plot(numbers, [100 * v.agreement.replay_error["seconds"][what] for v in together], style, label=what)
        panel.set_xscale("log", base=2)
        panel.set_xticks(numbers, [str(n) for n in numbers])
        panel.set_xlabel(harmless(f"devices that share one verifier, control: {together[0].controller}"))
        panel.set_ylabel("replay error of seconds an answer, %")
        panel.set_ylim(bottom=0)
        panel.legend(fontsize=8)
    for panel in panels[0]:
        panel.grid(alpha=0.3)
    figure.suptitle(harmless(title), fontsize=10, parse_math=False)
    figure.tight_layout()
    with replacing(path) as part:
        figure.savefig(part, format=path.suffix.removeprefix(".").lower())
    plt.close(figure)
