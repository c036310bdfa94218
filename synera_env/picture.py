"""The picture of an answer so far, as `render_mode="rgb_array"` returns it: drawn off screen, without a window or pyplot.

What does not live here: the answer (episode.py) and the environment that shows it (base.py).
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from runtime.session import StepRecord
from synera_env.episode import Episode
from synera_env.radio import Radio
from synera_env.schema import Knob

WIDTH, HEIGHT = 960, 540
"""Pixels; even numbers, as video codecs need them."""
_DPI = 80
COLOURS = {"kept": "#4878a8", "checked": "#3f8f5f", "corrected": "#d07a1e", "lost": "#c8553d"}
_MEANING = {
    "kept": "kept on the device",
    "checked": "checked by the cloud",
    "corrected": "the cloud's own",
    "lost": "asked, and lost",
}
_LINE, _CHARACTER = 150, 9 * 0.6021 / 72 * _DPI  # characters of a line, and pixels of one: DejaVu Sans Mono at 9 points
_ANSWER_LINES, _PROMPT_LINES = 4, 2
_LINE_HEIGHT = 0.031


@dataclass(frozen=True)
class Look:
    """How an environment reads the records of its system."""

    knobs: Sequence[Knob]
    """Rows of the strip."""
    confidence: Callable[[Any], float]
    """Of a record, 0..1; the height of its bar."""


def draw(episode: Episode | None, radio: Radio | None, paid: Mapping[str, float], look: Look) -> NDArray[np.uint8]:
    """Draw an answer: its tokens by where they come from, a bar a step over the time that it took, the link, and the knobs.

    Args:
        episode: the answer; None draws an empty picture.
        radio: its network; None leaves the link out.
        paid: sum of each term of the reward so far.
        look: how records are read.

    Returns:
        uint8 [HEIGHT, WIDTH, 3].
    """
    figure = Figure(figsize=(WIDTH / _DPI, HEIGHT / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    if episode is not None:
        records = episode.session.records
        terms = "  ".join(f"{name} {value:+.3f}" for name, value in paid.items())
        _write(figure, 0.985, _lines(f"{episode.kind}: {episode.prompt}")[:_PROMPT_LINES], "#666666")
        _write_answer(figure, 0.985 - (_PROMPT_LINES + 0.5) * _LINE_HEIGHT, episode)
        _write(figure, 0.035, _lines(f"reward {sum(paid.values()):+.3f} = {terms}"), "#333333")
        ends = max(1.0, records[-1].committed_at if records else 0.0)
        _bars(_axes(figure, 0.53, 0.20, ends, "confidence"), records, look.confidence)
        if radio is not None:
            _link(_axes(figure, 0.375, 0.12, ends, "Mbit/s up"), radio, ends)
        _strip(_axes(figure, 0.10, 0.24, ends, ""), records, look.knobs)
        _legend(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


# ---------------------------------------------------------------- text


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _lines(text: str) -> list[str]:
    return textwrap.wrap(_printable(text), _LINE)


def _write(figure: Figure, top: float, lines: list[str], colour: str, left: float = 0.0) -> None:
    """Write lines from a height downwards, so many characters from the left; nothing in them is markup."""
    place = 0.02 + left * _CHARACTER / WIDTH
    figure.text(place, top, "\n".join(lines), color=colour, fontsize=9, va="top", family="monospace", parse_math=False)


def origins(record: StepRecord) -> list[str]:
    """Say of each token that a step committed where it comes from, by the names of :data:`COLOURS`."""
    if not record.offloaded:
        return ["kept"] * len(record.committed)
    if record.error is not None:
        return ["lost"] * len(record.committed)
    return ["checked" if place < record.accepted else "corrected" for place in range(len(record.committed))]


def _write_answer(figure: Figure, top: float, episode: Episode) -> None:
    """Write the last lines of an answer, token by token in the colours of their origins."""
    came = [origin for record in episode.session.records for origin in origins(record)]
    written = [(character, origin) for text, origin in zip(_texts(episode, len(came)), came, strict=True) for character in text]
    if not written:
        _write(figure, top, ["(nothing yet)"], "#999999")
    lines = [written[start : start + _LINE] for start in range(0, len(written), _LINE)][-_ANSWER_LINES:]
    for number, line in enumerate(lines):
        left = 0
        for origin, run in groupby(line, key=lambda each: each[1]):
            text = "".join(character for character, _ in run)
            _write(figure, top - number * _LINE_HEIGHT, [text], COLOURS[origin], left)
            left += len(text)


def _texts(episode: Episode, tokens: int) -> Iterator[str]:
    """What each token adds to the text of the answer."""
    answer, before = list(episode.session.answer)[:tokens], ""
    for end in range(1, tokens + 1):
        whole = _printable(episode.text(answer[:end]))
        yield whole[len(before) :]
        before = whole


# ---------------------------------------------------------------- over time


def _axes(figure: Figure, bottom: float, height: float, ends: float, label: str) -> Axes:
    axes = figure.add_axes((0.14, bottom, 0.80, height))
    axes.set_xlim(0, ends)
    axes.set_ylabel(label, fontsize=8)
    axes.tick_params(labelsize=8)
    return axes


def _spans(records: Sequence[StepRecord]) -> tuple[list[float], list[float]]:
    """When each step began, and what it took."""
    took = [r.cost.seconds for r in records]
    return [r.committed_at - seconds for r, seconds in zip(records, took, strict=True)], took


def _bars(axes: Axes, records: Sequence[StepRecord], confidence: Callable[[Any], float]) -> None:
    outcomes = ["kept" if not r.offloaded else "checked" if r.error is None else "lost" for r in records]
    began, took = _spans(records)
    colours = [COLOURS[outcome] for outcome in outcomes]
    axes.bar(began, [confidence(r) for r in records], took, align="edge", color=colours, edgecolor="white")
    axes.set_ylim(0, 1)
    axes.tick_params(labelbottom=False)


def _link(axes: Axes, radio: Radio, ends: float) -> None:
    """The uplink's rate and, on the right, the round trip; grey where nothing gets through."""
    trace, at = radio.trace, np.linspace(0.0, ends, 256)
    places = ((radio.offset_seconds + at) / trace.step_seconds).astype(int) % len(trace.rtt_ms)
    axes.step(at, trace.uplink_mbps[places], color="#555555", linewidth=1, where="post")
    axes.set_ylim(bottom=0)
    axes.tick_params(labelbottom=False)
    right = axes.twinx()
    right.step(at, trace.rtt_ms[places], color="#8866aa", linewidth=1, where="post")
    right.set_ylim(bottom=0)
    right.tick_params(labelsize=8, colors="#8866aa")
    right.set_ylabel("ms", fontsize=8, color="#8866aa")
    for start, stop in radio.outages:
        if start < ends:
            axes.axvspan(start, min(stop, ends), color="#bbbbbb", linewidth=0)


def _strip(axes: Axes, records: Sequence[StepRecord], knobs: Sequence[Knob]) -> None:
    """A row a knob, darker the higher it was set; what was set at a step is shown over the time that it took."""
    began, took = _spans(records)
    for row, knob in enumerate(knobs):
        shares = [min(1.0, max(0.0, knob.share(getattr(r.knobs, knob.name)))) for r in records]
        axes.barh(
            [row] * len(records), took, 0.9, began, color=[(0.9 - 0.7 * s, 0.93 - 0.5 * s, 0.97 - 0.3 * s) for s in shares]
        )
    axes.set_ylim(len(knobs) - 0.5, -0.5)
    axes.set_yticks(range(len(knobs)), [knob.name for knob in knobs], fontsize=7)
    axes.set_xlabel("seconds", fontsize=8, labelpad=0)


def _legend(figure: Figure) -> None:
    patches = [Patch(color=colour, label=_MEANING[origin]) for origin, colour in COLOURS.items()]
    figure.legend(
        handles=patches, loc="upper center", bbox_to_anchor=(0.52, 0.79), ncols=len(patches), fontsize=8, frameon=False
    )
