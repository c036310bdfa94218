"""One compact decoder that can be entered and left at any layer.

What lives here: `embed`, layers start..stop, `logits`. What does not: a layer's arithmetic (layer.py), checkpoints
(loading.py), caches (kv.py), exits (exits.py), sampling, tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.errors import ContextOverflowError
from runtime.model.kv import KVCache, KVShape, SequenceKV
from runtime.model.layer import Norm, Turns, taken_layer
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

    @property
    def kv_shape(self) -> KVShape:
        """Sizes of a cache for this model."""
        return KVShape(self.layers, self.kv_heads, self.head_dim)


class Decoder:
    """A Llama-like decoder over flat rows: no batch axis, a row is one position of some sequence of the cache.

    All methods run without gradients. Rows never mix except through the cache, so a forward over many sequences is a
    forward over their concatenated rows. Weights, hidden states and caches have one type; the rotary tables are worked
    out in float32 and applied in that type, as transformers does.
    """

    def __init__(self, config: ModelConfig, weights: dict[str, Tensor], inv_freq: Tensor, rope_scale: float) -> None:
        """Take the tensors out of `weights`, so that none is held twice longer than it takes to lay it out."""
        self.config = config
        self._embedding = weights.pop("model.embed_tokens.weight")
        self._head = weights.pop("lm_head.weight", self._embedding)
        self._norm = Norm(weights.pop("model.norm.weight"), config.norm_eps)
        self.device = self._embedding.device
        """Where the weights, hidden states and caches are; ids and positions are moved there."""
        self.dtype = self._embedding.dtype
        """The type of weights, hidden states and caches."""
        self._layers = [
            taken_layer(weights, i, config.heads, config.kv_shape, window, config.norm_eps)
            for i, window in enumerate(config.windows)
        ]
        angles = torch.arange(config.context, dtype=torch.float32)[:, None] * inv_freq.float()[None]
        cos, sin = angles.cos(), angles.sin()
        turns = torch.stack([cos, cos, -sin, sin], 1).view(config.context, 2, 1, 2, -1) * rope_scale
        self._turns = turns.to(self._embedding)  # [context, cosines and sines, 1, halves, head_dim / 2]

    def new_cache(self) -> SequenceKV:
        """Return an empty cache of one sequence, on this decoder's device and in its type."""
        return SequenceKV(self.config.kv_shape, dtype=self.dtype, device=self.device)

    def new_tree(self, room: int = 1024) -> TreeKV:
        """Return an empty cache of many prefixes that share their beginnings; see :meth:`new_cache`."""
        return TreeKV(self.config.kv_shape, dtype=self.dtype, device=self.device, room=room)

    @property
    def cached_bytes(self) -> int:
        """Bytes that a cache of any kind takes for a token: keys and values of every layer."""
        shape = self.config.kv_shape
        return 2 * shape.layers * shape.kv_heads * shape.head_dim * self.dtype.itemsize

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of all weights, once each."""
        tensors = {id(t): t for layer in self._layers for t in layer.tensors()}
        tensors |= {id(t): t for t in (self._embedding, self._head, self._norm.weight)}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    @torch.inference_mode()
    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [rows], on the CPU or the decoder's device, to hidden states [rows, hidden]."""
        return F.embedding(moved(ids, self.device), self._embedding)

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
        """
        furthest = int(positions.max())
        if furthest >= self.config.context:
            raise ContextOverflowError(
                f"position {furthest} is past the model's context of {self.config.context} tokens; shorten the prompt"
            )
        turns = Turns(*self._turns[moved(positions, self.device)].unbind(1))
        for layer in self._layers[start:stop]:
            hidden = layer.run(hidden, turns, kv)
        return hidden

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and head: [rows, hidden] to [rows, vocab]; valid at any exit, as all share them."""
        return F.linear(self._norm(hidden), self._head)[:, : self.config.vocab]
