"""The picture of an answer so far, as `render_mode="rgb_array"` returns it: drawn off screen, without a window or pyplot.

What does not live here: the answer (episode.py) and the environment that shows it (base.py).
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from synera_env.episode import Episode

WIDTH, HEIGHT = 720, 400
"""Pixels; even numbers, as video codecs need them."""
_DPI = 80
COLOURS = {"kept": "#7a9cc6", "checked": "#4f9d69", "lost": "#c8553d"}
_MEANING = {"kept": "kept on the device", "checked": "checked by the cloud", "lost": "asked, and lost"}
_LINE = 98  # characters


def draw(episode: Episode | None, paid: Mapping[str, float], confidence: Callable[[Any], float]) -> NDArray[np.uint8]:
    """Draw an answer: its text, a bar a step over the time that it took, and what the reward's terms have come to.

    Args:
        episode: the answer; None draws an empty picture.
        paid: sum of each term of the reward so far.
        confidence: of a record, 0..1; the height of its bar.

    Returns:
        uint8 [HEIGHT, WIDTH, 3].
    """
    figure = Figure(figsize=(WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    if episode is not None:
        session = episode.session
        terms = "  ".join(f"{name} {value:+.3f}" for name, value in paid.items())
        _write(figure, 0.97, _lines(f"{episode.kind}: {episode.prompt}")[:3], "#666666")
        _write(figure, 0.82, _lines(episode.text(session.answer) or "(nothing yet)")[-3:], "black")
        _write(figure, 0.06, _lines(f"reward {sum(paid.values()):+.3f} = {terms}"), "#333333")
        _bars(figure, session.records, confidence)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _lines(text: str) -> list[str]:
    return textwrap.wrap("".join(c if c.isprintable() else " " for c in text), _LINE)


def _write(figure: Figure, top: float, lines: list[str], colour: str) -> None:
    """Write lines from a height downwards; nothing in them is markup."""
    figure.text(0.02, top, "\n".join(lines), color=colour, fontsize=9, va="top", family="monospace", parse_math=False)


def _bars(figure: Figure, records: Any, confidence: Callable[[Any], float]) -> None:
    axes = figure.add_axes((0.07, 0.20, 0.91, 0.40))
    took = [r.cost.seconds for r in records]
    began = [r.committed_at - seconds for r, seconds in zip(records, took, strict=True)]
    outcomes = ["kept" if not r.offloaded else "checked" if r.error is None else "lost" for r in records]
    colours = [COLOURS[outcome] for outcome in outcomes]
    axes.bar(began, [confidence(r) for r in records], took, align="edge", color=colours, edgecolor="white")
    axes.set_ylim(0, 1)
    axes.set_xlim(0, max(1.0, records[-1].committed_at if records else 0.0))
    axes.set_xlabel("seconds", fontsize=8)
    axes.set_ylabel("confidence", fontsize=8)
    axes.tick_params(labelsize=8)
    figure.legend(
        handles=[Patch(color=colour, label=_MEANING[outcome]) for outcome, colour in COLOURS.items()],
        loc="upper center",
        bbox_to_anchor=(0.52, 0.685),
        ncols=3,
        fontsize=8,
        frameon=False,
    )
