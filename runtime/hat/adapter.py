"""HAT's adapter: one attention block between the first layers' states and the final norm and head, which then draft.

What lives here: its arithmetic, its file, and what the file states. What does not: drafting (the stepper, the rules), the layers
before it and the head after it (runtime/model/decoder.py), and its training (traces/hat/train_adapter.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from runtime.errors import CheckpointError
from runtime.hat.drafter_file import Count, Fingerprint, Form
from runtime.model.decoder import Decoder, ModelConfig
from runtime.model.kv import KVCache, KVShape, SequenceKV
from runtime.model.layer import Linear, Norm, Turns

FILE = "adapter.safetensors"
"""Its name in a folder."""
FORMAT = 1
"""Version of the file; another one is refused."""
_WAY_OUT = "train one with: synera train-adapter"


@dataclass(frozen=True)
class Stated:
    """What an adapter's file states of itself."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    format: int
    """See :data:`FORMAT`."""
    model: Fingerprint
    """That it was trained on."""
    first: Annotated[int, Field(ge=0, le=1024)]
    """Layers whose states it reads: the device's first ones."""
    hidden: Count
    heads: Count
    head_dim: Count
    norm_eps: Annotated[float, Field(gt=0, lt=1)]
    training: dict[str, str | int | float] = field(default_factory=dict)
    """Notes of how it was trained, for whoever reads them."""

    @classmethod
    def of(cls, config: ModelConfig, model: str, first: int, training: Mapping[str, str | int | float]) -> Stated:
        """State an adapter of a model: it has the model's sizes, and all of its heads have keys of their own."""
        return cls(FORMAT, model, first, config.hidden, config.heads, config.head_dim, config.norm_eps, dict(training))

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of the file, by name."""
        inner = self.heads * self.head_dim
        projections = {f"{part}_proj.weight": (inner, self.hidden) for part in "qkv"}
        return {"norm.weight": (self.hidden,), **projections, "o_proj.weight": (self.hidden, inner)}

    def metadata(self) -> dict[str, str]:
        """Return what a safetensors file holds beside its tensors."""
        return FORM.metadata(self)


FORM = Form("adapter", "an adapter", FILE, "adapter", FORMAT, Stated, _WAY_OUT)
"""Of its file."""


class Adapter:
    """x + O(attention(norm(x))): a layer without its MLP, with keys and values of its own.

    Rows are flat, as the decoder's; they mix through the cache alone. Weights, states and the cache have one type and device.
    """

    def __init__(self, stated: Stated, weights: Mapping[str, Tensor], fingerprint: str = "") -> None:
        """Lay the weights out.

        Args:
            stated: sizes.
            weights: by the names of :attr:`Stated.shapes`.
            fingerprint: of the file that they come from.
        """
        self.stated, self.fingerprint = stated, fingerprint
        self.shape = KVShape(1, stated.heads, stated.head_dim)
        """Sizes of its cache."""
        self._norm = Norm(weights["norm.weight"], stated.norm_eps)
        self._qkv = Linear.laid_out(torch.cat([weights[f"{part}_proj.weight"] for part in "qkv"]), None)
        self._out = Linear.laid_out(weights["o_proj.weight"], None)
        self.device, self.dtype = self._norm.weight.device, self._norm.weight.dtype

    @classmethod
    def load(cls, path: str | Path, decoder: Decoder, model: str | None = None) -> Adapter:
        """Load the adapter of a decoder, onto its device and in its type.

        Args:
            path: the file, or a folder that holds it as `adapter.safetensors`.
            decoder: the whole model, or the device's part of it; its first layers are those that the adapter follows.
            model: the fingerprint of the decoder's folder; None where it is not known, so that sizes alone are compared.

        Raises:
            CheckpointError: it is missing, damaged, of another format, model, split or size.
        """
        file = FORM.find(path)
        stated, weights, digest = FORM.read(file)
        _require_fit(file, stated, decoder, model)
        return cls(stated, {name: t.to(decoder.device, decoder.dtype) for name, t in weights.items()}, digest)

    @property
    def first(self) -> int:
        """Layers whose states it reads."""
        return self.stated.first

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, once each."""
        tensors = (self._norm.weight, self._qkv.weight, self._out.weight)
        return sum(t.numel() * t.element_size() for t in tensors)

    @property
    def cached_bytes(self) -> int:
        """Bytes that its cache takes for a token."""
        return 2 * self.shape.kv_heads * self.shape.head_dim * self.dtype.itemsize

    def new_cache(self) -> SequenceKV:
        """Return an empty cache of one sequence, of one layer, on its device and in its type."""
        return SequenceKV(self.shape, dtype=self.dtype, device=self.device)

    @torch.inference_mode()
    def run(self, states: Tensor, turns: Turns, kv: KVCache) -> Tensor:
        """States after the first layers to states for the final norm and head.

        Args:
            states: [rows, hidden].
            turns: of the rows' positions, from :meth:`runtime.model.decoder.Decoder.turns`.
            kv: where its keys and values are appended and attended, from :meth:`new_cache`.

        Returns:
            A new [rows, hidden].
        """
        heads, rows = self.shape.kv_heads, states.shape[0]
        qkv = self._qkv(self._norm(states)).view(rows, 3 * heads, self.shape.head_dim)
        turns.apply_(qkv.narrow(1, 0, 2 * heads))
        q, new = qkv.split_with_sizes((heads, 2 * heads), 1)
        return self._out.onto(states, kv.attend(0, q, new, None).reshape(rows, -1))


def _require_fit(file: Path, stated: Stated, decoder: Decoder, model: str | None) -> None:
    """Refuse an adapter of another model, split or size."""
    config = decoder.config
    sizes = {name: (getattr(stated, name), getattr(config, name)) for name in ("hidden", "heads", "head_dim")}
    if wrong := next((name for name, (has, wanted) in sizes.items() if has != wanted), None):
        has, wanted = sizes[wrong]
        raise CheckpointError(f"{file} is of another model: its {wrong} is {has}, the model's {wanted}; {_WAY_OUT}")
    FORM.require_model(file, stated.model, model)
    leading = next((place for place, layer in enumerate(decoder.layers) if layer != place), len(decoder.layers))
    whole = leading == config.layers and stated.first < leading
    if not whole and leading != stated.first:
        raise CheckpointError(
            f"{file} follows layer {stated.first} of its model, but the device has the first {leading}; "
            f"split the model there, or {_WAY_OUT} --split {leading}"
        )
