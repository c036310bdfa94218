"""The picture of a model card: what the SLM's token does at each kind of position, by how sure it is of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from traces.files import replacing
from traces.pair.positions import CONFIDENCE_BINS, AtExit, confidence_bins
from traces.tasks.scorers import PARTS

_SHADES = {"the LLM's token": "#c9d6df", "another, harmless": "#f2b134", "another, costs score": "#c0392b"}


def draw_positions(seen: AtExit, path: Path) -> None:
    """Write a PNG: for each kind of position a bar a bin of confidence, divided by what the SLM's token does there.

    Args:
        seen: an exit; the places count of the answers in which wrong tokens were let stand.
        path: the file.

    Raises:
        TraceError: nothing can be written there.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    bins = confidence_bins()
    figure, axes = plt.subplots(1, len(PARTS), figsize=(12, 3.6), dpi=75, sharey=True, layout="constrained")
    for axis, part in zip(axes, PARTS, strict=True):
        places = [place for place in seen.of(part) if place.losses is not None]
        held = np.digitize([place.confidence for place in places], CONFIDENCE_BINS[1:-1])
        does = np.array([0 if place.agrees else 1 if place.harmless else 2 for place in places])
        counts = np.array([[np.sum((held == b) & (does == d)) for b in range(len(bins))] for d in range(len(_SHADES))])
        shares, below = counts / np.maximum(1, counts.sum(0)), np.zeros(len(bins))
        for (label, colour), share in zip(_SHADES.items(), shares, strict=True):
            axis.bar(bins, share, bottom=below, color=colour, label=label)
            below += share
        for b, count in enumerate(counts.sum(0)):
            axis.text(b, 1.02, str(count), ha="center", fontsize=8)
        axis.set_title(f"{part}: {len(places)} positions", fontsize=10, pad=14)
        axis.set(xlabel="confidence of the SLM", ylim=(0, 1))
        axis.tick_params(labelsize=7)
    axes[0].set_ylabel("share of the positions")
    axes[-1].legend(title="the SLM says", fontsize=7, title_fontsize=8, loc="lower right")
    with replacing(path) as part_path:
        figure.savefig(part_path, format="png")
    plt.close(figure)
