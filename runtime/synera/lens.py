"""What a device must carry, besides the SLM, to show a controller the features it was trained on.

Two empirical tables fitted by the recorder: the principal directions of the hidden state at each exit, and the
distribution of chunk importance, by chunk length, that turns a raw importance into a quantile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from runtime.errors import CheckpointError
from runtime.synera.knobs import MAX_DRAFT_LENGTH

SKETCH_SIZE = 16
"""Principal directions kept of a hidden state."""
_QUANTILES = 101
_NAMES = ("lens.mean", "lens.directions", "lens.importance")
_ROUNDING = 1e-5  # entries of the importance table are recorded values; a live forward may differ from them by less than this


def chunk_importance(rows: Sequence[NDArray[np.float32]]) -> float | None:
    """Return the largest attention that a token of a chunk receives from a later token of it. The formula is ours.

    Args:
        rows: for each token of the chunk that was read back in while drafting (all but the last), its attention row
            [window]: column j is the position j before it.

    Returns:
        The raw importance in 0..1, or None where no later token was read (chunks of one or two tokens).
    """
    received = [float(row[back]) for place, row in enumerate(rows) for back in range(1, min(place, len(row) - 1) + 1)]
    return max(received) if received else None


@dataclass(frozen=True)
class Lens:
    """The two tables; arrays are float32.

    Raises:
        CheckpointError: a table of another shape or type, or with values that make no sense.
    """

    mean: NDArray[np.float32]
    """[exits, hidden]."""
    directions: NDArray[np.float32]
    """[exits, SKETCH_SIZE, hidden], scaled so that each coordinate has unit variance on the recorded prompts."""
    importance: NDArray[np.float32]
    """[MAX_DRAFT_LENGTH + 1, 101]: quantiles 0..1 of the raw importance for each chunk length."""

    def __post_init__(self) -> None:
        exits, hidden = self.mean.shape if self.mean.ndim == 2 else (0, 0)
        shapes = _shapes(exits, hidden)
        for (name, table), shape in zip(self.tensors().items(), shapes, strict=True):
            if table.shape != shape or table.dtype != np.float32 or not table.size:
                raise CheckpointError(f"{name} is {table.dtype}{list(table.shape)}; it must be float32{list(shape)}, not empty")
            if not np.isfinite(table).all():
                raise CheckpointError(f"{name} has values that are not finite")
        if (np.diff(self.importance) < 0).any() or self.importance.min() < 0 or self.importance.max() > 1 + _ROUNDING:
            raise CheckpointError("lens.importance must rise within 0..1 for each chunk length")

    def require_fit(self, exits: int, hidden: int) -> None:
        """Do nothing where the lens is for an SLM of so many exits and this hidden size.

        Raises:
            CheckpointError: it is for another.
        """
        if self.mean.shape != (exits, hidden):
            raise CheckpointError(
                f"the lens is for {self.mean.shape[0]} exits of hidden size {self.mean.shape[1]}, the SLM has {exits} of "
                f"{hidden}; record the traces with this SLM"
            )

    def sketch(self, hidden: NDArray[np.float32], exit_index: int) -> NDArray[np.float32]:
        """Project hidden states [..., hidden] at an exit to [..., SKETCH_SIZE], clipped to -8..8, in half precision.

        Half precision is what a graph stores, so live and replayed sketches agree.
        """
        projected = (hidden - self.mean[exit_index]) @ self.directions[exit_index].T
        return projected.clip(-8, 8).astype(np.float16).astype(np.float32)

    def importance_quantile(self, rows: Sequence[NDArray[np.float32]], length: int) -> float:
        """Return a chunk's importance as a quantile among chunks of its length; 1.0 where it cannot be told."""
        raw = chunk_importance(rows)
        if raw is None:
            return 1.0
        return float(np.searchsorted(self.importance[length], raw + _ROUNDING, side="right") / _QUANTILES)

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of the tables."""
        return hashlib.sha256(save(self.tensors())).hexdigest()[:16]

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The tables by name, as stored in graphs and bundles."""
        return dict(zip(_NAMES, (self.mean, self.directions, self.importance), strict=True))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Lens:
        """Inverse of :meth:`tensors`.

        Raises:
            KeyError: a table is missing.
            CheckpointError: one makes no sense.
        """
        return cls(*(np.ascontiguousarray(tensors[name]) for name in _NAMES))

    @classmethod
    def load(cls, path: Path) -> Lens:
        """Read the tables from a safetensors file that holds them.

        Raises:
            CheckpointError: the file is missing or damaged, or its tables make no sense.
        """
        try:
            with safe_open(path, framework="np") as opened:
                return cls.from_tensors({name: opened.get_tensor(name) for name in _NAMES})
        except (OSError, SafetensorError, TypeError, CheckpointError) as error:  # TypeError: of a type that numpy lacks
            raise CheckpointError(f"no usable lens in {path}: {error}") from None

    @classmethod
    def neutral(cls, exits: int, hidden: int) -> Lens:
        """Return a lens that shows nothing: sketches of zeros, importance 1.0; for rules that look at neither."""
        return cls(*(np.zeros(shape, np.float32) for shape in _shapes(exits, hidden)))

    @classmethod
    def fit(cls, hidden: Sequence[NDArray[np.float32]], raw_importance: dict[int, Sequence[float]]) -> Lens:
        """Fit the tables.

        Args:
            hidden: for each exit, sampled hidden states [samples, hidden].
            raw_importance: sampled raw importance values by chunk length.
        """
        means, directions = [], []
        for states in hidden:
            mean = states.mean(0)
            variance, basis = np.linalg.eigh(np.cov(states, rowvar=False, bias=True))  # rising order
            variance, basis = variance[::-1][:SKETCH_SIZE], basis.T[::-1][:SKETCH_SIZE]
            kept = basis * np.sign(basis.sum(1, keepdims=True) + 1e-12)
            seen = variance > 1e-10 * max(float(variance[0]), 1e-10)  # fewer samples than directions leave the rest unseen
            padded = np.zeros((SKETCH_SIZE, states.shape[1]), np.float32)
            padded[: len(kept)][seen] = kept[seen] / np.sqrt(variance[seen])[:, None]
            means.append(mean)
            directions.append(padded)
        table = np.zeros((MAX_DRAFT_LENGTH + 1, _QUANTILES), np.float32)  # where nothing was sampled, all are important
        for length, values in raw_importance.items():
            if len(values):
                table[length] = np.quantile(values, np.linspace(0, 1, _QUANTILES))
        return cls(np.stack(means).astype(np.float32), np.stack(directions).astype(np.float32), table)


def _shapes(exits: int, hidden: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of the three arrays."""
    return (exits, hidden), (exits, SKETCH_SIZE, hidden), (MAX_DRAFT_LENGTH + 1, _QUANTILES)
