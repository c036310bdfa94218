"""One compact decoder that can be entered and left at any layer, and may be but a part of its model.

What lives here: `embed`, layers start..stop, `logits`. What does not: a layer's arithmetic (layer.py), checkpoints
(loading.py), caches (kv.py), exits (exits.py), sampling, tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.errors import ContextOverflowError
from runtime.model.kv import KVCache, KVShape, SequenceKV
from runtime.model.layer import Layer, Norm, Turns, taken_layer
from runtime.model.placement import moved
from runtime.model.tree_kv import TreeKV


@dataclass(frozen=True)
class ModelConfig:
    """What the decoder needs to know of a checkpoint."""

    architecture: str
    vocab: int
    """Token ids that are read and said; the embedding and the head may have further rows, which no token belongs to."""
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    context: int
    """Longest sequence, in tokens."""
    windows: tuple[int | None, ...]
    """Sliding-window length of each layer; None sees everything."""
    exit_layers: tuple[int, ...]
    """Layers after which the shared norm and head give usable predictions; ends with the last layer."""
    eos_ids: tuple[int, ...]


class Ends(NamedTuple):
    """What reads tokens and what says them; both or neither are there."""

    embedding: Tensor
    """[tokens or more, hidden]."""
    norm: Norm
    """The final one."""
    head: Tensor
    """[tokens or more, hidden]."""


class Decoder:
    """A Llama-like decoder over flat rows: no batch axis, a row is one position of some sequence of the cache.

    All methods run without gradients. Rows never mix except through the cache, so a forward over many sequences is a
    forward over their concatenated rows. Weights, hidden states and caches have one type; the rotary tables are worked
    out in float32 and applied in that type, as transformers does.

    Where a model is split (split.py) it has some of the layers, and embedding, final norm and head or neither. Layers keep the
    numbers that they have in the whole model; caches have room for those that are there.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: dict[str, Tensor],
        inv_freq: Tensor,
        rope_scale: float,
        layers: Sequence[int] | None = None,
    ) -> None:
        """Take the tensors out of `weights`, so that none is held twice longer than it takes to lay it out.

        Args:
            config: of the whole model.
            weights: by the names of checkpoints; without an embedding there is no head either.
            inv_freq: rotary frequencies [head_dim / 2].
            rope_scale: of cosines and sines.
            layers: numbers of those that are there, rising; None is all.
        """
        self.config, self.layers = config, tuple(range(config.layers) if layers is None else layers)
        self.kv_shape = KVShape(len(self.layers), config.kv_heads, config.head_dim)
        """Sizes of a cache for the layers that are there."""
        self._places = {layer: place for place, layer in enumerate(self.layers)}
        some = next(iter(weights.values()))
        self.device, self.dtype = some.device, some.dtype
        """Where the weights, hidden states and caches are, and their type; ids and positions are moved there."""
        embedding = weights.pop("model.embed_tokens.weight", None)
        self._ends: Ends | None = None
        if embedding is not None:
            norm = Norm(weights.pop("model.norm.weight"), config.norm_eps)
            self._ends = Ends(embedding, norm, weights.pop("lm_head.weight", embedding))
        self._layers = [
            taken_layer(weights, layer, place, config.heads, self.kv_shape, config.windows[layer], config.norm_eps)
            for place, layer in enumerate(self.layers)
        ]
        angles = torch.arange(config.context, dtype=torch.float32)[:, None] * inv_freq.float()[None]
        cos, sin = angles.cos(), angles.sin()
        turns = torch.stack([cos, cos, -sin, sin], 1).view(config.context, 2, 1, 2, -1) * rope_scale
        self._turns = turns.to(some)  # [context, cosines and sines, 1, halves, head_dim / 2]

    def new_cache(self) -> SequenceKV:
        """Return an empty cache of one sequence, on this decoder's device and in its type."""
        return SequenceKV(self.kv_shape, dtype=self.dtype, device=self.device)

    def new_tree(self, room: int = 1024) -> TreeKV:
        """Return an empty cache of many prefixes that share their beginnings; see :meth:`new_cache`."""
        return TreeKV(self.kv_shape, dtype=self.dtype, device=self.device, room=room)

    @property
    def cached_bytes(self) -> int:
        """Bytes that a cache of any kind takes for a token: keys and values of every layer that is there."""
        shape = self.kv_shape
        return 2 * shape.layers * shape.kv_heads * shape.head_dim * self.dtype.itemsize

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of all weights, once each."""
        tensors = {id(t): t for layer in self._layers for t in layer.tensors()}
        if self._ends is not None:
            tensors |= {id(t): t for t in (self._ends.embedding, self._ends.head, self._ends.norm.weight)}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    @torch.inference_mode()
    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [rows], on the CPU or the decoder's device, to hidden states [rows, hidden]."""
        return F.embedding(moved(ids, self.device), self.ends.embedding)

    @torch.inference_mode()
    def run(self, hidden: Tensor, positions: Tensor, kv: KVCache, start: int = 0, stop: int | None = None) -> Tensor:
        """Run layers start..stop (stop not included).

        Args:
            hidden: [rows, hidden], the output of layer start - 1 (or of `embed`).
            positions: int64 [rows], the place of each row in its sequence; best on the CPU, where checking them waits for
                nothing.
            kv: where the layers' keys and values are appended and attended.
            start: first layer.
            stop: one past the last layer; None is all.

        Returns:
            [rows, hidden].

        Raises:
            ContextOverflowError: a position at or past the context length.
            ValueError: a layer is not there.
        """
        layers = range(start, self.config.layers if stop is None else stop)
        turns = self.turns(positions)
        for layer in self._between(layers):
            hidden = layer.run(hidden, turns, kv)
        return hidden

    def turns(self, positions: Tensor) -> Turns:
        """Rotary embedding of rows at positions, int64 [rows]; best on the CPU, see :meth:`run`.

        Raises:
            ContextOverflowError: a position at or past the context length.
        """
        furthest = int(positions.max())
        if furthest >= self.config.context:
            raise ContextOverflowError(
                f"position {furthest} is past the model's context of {self.config.context} tokens; shorten the prompt"
            )
        return Turns(*self._turns[moved(positions, self.device)].unbind(1))

    def _between(self, layers: range) -> Sequence[Layer]:
        if not layers:
            return ()
        first, last = self._places.get(layers[0]), self._places.get(layers[-1])
        if first is None or last is None or last - first != len(layers) - 1:
            raise ValueError(
                f"layers {layers.start}..{layers.stop - 1} are not all there; this part of the model has {self.layers}"
            )
        return self._layers[first : last + 1]

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and head: [rows, hidden] to [rows, vocab]; valid at any exit, as all share them."""
        ends = self.ends
        return F.linear(ends.norm(hidden), ends.head)[:, : self.config.vocab]

    @property
    def ends(self) -> Ends:
        """Embedding, final norm and head, as they are.

        Raises:
            ValueError: this part of the model has none.
        """
        if self._ends is None:
            raise ValueError("this part of the model has neither embedding nor head")
        return self._ends
