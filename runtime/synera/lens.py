"""What a device must carry, besides the SLM, to show a controller the features it was trained on.

Three empirical tables fitted by the recorder: the principal directions of the hidden state at each exit; weights that tell,
from what the SLM felt about a token, how likely the LLM is to reject it; and the distribution of chunk importance, by chunk
length, that turns a raw importance into a quantile. What does not live here: how they are fitted (traces/synera/record_lens.py).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from runtime.errors import CheckpointError
from runtime.synera.chunk import DraftToken
from runtime.synera.knobs import MAX_DRAFT_LENGTH

SKETCH_SIZE = 16
"""Principal directions kept of a hidden state."""
CLUES = 5 + SKETCH_SIZE
"""What a token's rejection is told from: see :func:`clues`."""
QUANTILES = 101
"""Entries of the importance table for each chunk length: the quantiles 0, 0.01 .. 1."""
_NAMES = ("lens.mean", "lens.directions", "lens.rejection", "lens.importance")
_LEAST_DOUBT = 1e-4  # a live forward differs from the recorded one by 1e-6; below this the logarithm would show it
_ROUNDING = 1e-5  # of probabilities
_NEAR = 0.01  # log-odds; a live sketch may round the other way than the recorded one, which moved them by 0.0004 at most


def clues(
    confidence: NDArray[np.floating],
    margin: NDArray[np.floating],
    entropy: NDArray[np.floating],
    sketch: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Return what tokens' rejections are told from, [tokens, CLUES]: 1, confidence, margin, entropy, log of doubt, sketch.

    Args:
        confidence: top-1 probability [tokens]; doubt is what is left of 1.
        margin: top-1 minus top-2 probability [tokens].
        entropy: nats [tokens].
        sketch: as :meth:`Lens.sketch` makes it [tokens, SKETCH_SIZE].
    """
    sure = np.asarray(confidence, np.float64)
    felt = [np.ones_like(sure), sure, margin, entropy, np.log(np.maximum(1 - sure, _LEAST_DOUBT))]
    return np.concatenate([np.stack(felt, -1), sketch], -1)


def rejection(confidence: float, margin: float, entropy: float, sketch: Sequence[float], weights: Sequence[float]) -> float:
    """Return how likely the LLM is to choose another token, by one token's :func:`clues` and the weights of its exit."""
    odds = weights[0] + weights[1] * confidence + weights[2] * margin + weights[3] * entropy
    odds += weights[4] * math.log(max(1 - confidence, _LEAST_DOUBT))
    for direction in range(len(sketch)):
        odds += weights[5 + direction] * sketch[direction]
    return 1 / (1 + math.exp(-min(max(odds, -30.0), 30.0)))


def importance_reached(raw: float, quantiles: Sequence[float]) -> float:
    """Return a chunk's importance as a quantile among recorded chunks of its length.

    Args:
        raw: of :func:`chunk_importance`.
        quantiles: rising, [QUANTILES]; those of the recorded chunks.
    """
    # Entries are recorded chunks, and live these come out slightly otherwise.
    reached = raw + _NEAR * raw * (1 - raw) + _ROUNDING
    low, high = 0, len(quantiles)  # the first entry above it
    while low < high:
        middle = (low + high) // 2
        if quantiles[middle] <= reached:
            low = middle + 1
        else:
            high = middle
    return low / QUANTILES


def chunk_importance(rejected: Sequence[float] | NDArray[np.floating]) -> float:
    """Return how likely the LLM rejects some token of a chunk, 1 - prod(1 - rejected): tokens are taken as independent.

    The formula is ours. An earlier one, the most attention that a token receives from later ones of the chunk, was measured
    on the bundled tasks and ranked chunks worse than chance.

    Args:
        rejected: for each token how likely it is rejected [tokens].
    """
    stands = 1.0
    for place in range(len(rejected)):
        stands *= 1 - rejected[place]
    return 1 - stands


@dataclass(frozen=True)
class Lens:
    """The tables; arrays are float32.

    Raises:
        CheckpointError: a table of another shape or type, or with values that make no sense.
    """

    mean: NDArray[np.float32]
    """[exits, hidden]."""
    directions: NDArray[np.float32]
    """[exits, SKETCH_SIZE, hidden], scaled so that each coordinate has unit variance on the recorded prompts."""
    rejection: NDArray[np.float32]
    """[exits, CLUES]: weights of a logistic model, for each exit, of whether the LLM would have chosen another token."""
    importance: NDArray[np.float32]
    """[MAX_DRAFT_LENGTH + 1, QUANTILES]: quantiles 0..1 of the raw importance of recorded chunks, for each chunk length."""

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

    def rejected(self, exit_index: NDArray[np.integer] | int, clues: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return how likely the LLM is to choose another token, [tokens]: :func:`rejection` of many tokens at once.

        Args:
            exit_index: where the tokens left, [tokens] or one for all.
            clues: [tokens, CLUES], of :func:`clues`.
        """
        return 1 / (1 + np.exp(-np.clip((clues * self.rejection[exit_index]).sum(-1), -30, 30)))

    def importance_quantile(self, tokens: Sequence[DraftToken]) -> float:
        """Return a chunk's importance: :func:`chunk_importance` as a quantile among recorded chunks of its length.

        It is 1.0 where none were recorded.
        """
        _, quantiles = self._lists
        return importance_reached(chunk_importance([self.rejection_of(t) for t in tokens]), quantiles[len(tokens)])

    def rejection_of(self, token: DraftToken) -> float:
        """Return how likely the LLM is to choose another token: :func:`rejection` of one token."""
        weights, _ = self._lists
        return rejection(token.confidence, token.margin, token.entropy, token.sketch.tolist(), weights[token.exit_index])

    @cached_property
    def _lists(self) -> tuple[list[list[float]], list[list[float]]]:
        """Weights and quantiles as lists, as single entries are read faster from them than from arrays."""
        return self.rejection.tolist(), self.importance.tolist()

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of the tables."""
        return hashlib.sha256(save(self.tensors())).hexdigest()[:16]

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """The tables by name, as stored in graphs and bundles."""
        return dict(zip(_NAMES, (self.mean, self.directions, self.rejection, self.importance), strict=True))

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Lens:
        """Inverse of :meth:`tensors`.

        Raises:
            CheckpointError: a table is missing, or makes no sense.
        """
        if missing := [name for name in _NAMES if name not in tensors]:
            raise CheckpointError(f"the lens lacks {missing[0]}; record the traces and train again")
        return cls(*(np.ascontiguousarray(tensors[name]) for name in _NAMES))

    @classmethod
    def load(cls, path: Path) -> Lens:
        """Read the tables from a safetensors file that holds them.

        Raises:
            CheckpointError: the file is missing or damaged, or its tables make no sense.
        """
        try:
            with safe_open(path, framework="np") as opened:
                return cls.from_tensors({name: opened.get_tensor(name) for name in opened.keys() if name in _NAMES})  # noqa: SIM118
        except (OSError, SafetensorError, TypeError, CheckpointError) as error:  # TypeError: of a type that numpy lacks
            raise CheckpointError(f"no usable lens in {path}: {error}") from None

    @classmethod
    def neutral(cls, exits: int, hidden: int) -> Lens:
        """Return a lens that shows nothing: sketches of zeros, importance 1.0; for rules that look at neither."""
        return cls(*(np.zeros(shape, np.float32) for shape in _shapes(exits, hidden)))

    @classmethod
    def of_states(cls, hidden: Sequence[NDArray[np.float32]]) -> Lens:
        """Fit what sketches are made with; importance is 1.0 until its tables are fitted, too.

        Args:
            hidden: for each exit, sampled hidden states [samples, hidden].
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
        neutral = cls.neutral(len(hidden), hidden[0].shape[1])
        return replace(neutral, mean=np.stack(means).astype(np.float32), directions=np.stack(directions).astype(np.float32))


def _shapes(exits: int, hidden: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of the arrays."""
    return (exits, hidden), (exits, SKETCH_SIZE, hidden), (exits, CLUES), (MAX_DRAFT_LENGTH + 1, QUANTILES)
