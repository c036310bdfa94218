"""KV caches of sequences: one interface (`attend`). A cache stores keys and values and does the attention over them.

What does not live here: which positions go through which layers (exits.py) and who owns a cache (drafter.py, cloud/).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

ATTENTION_WINDOW = 8
"""Positions kept of an attention row: the query's own and the seven before it (the longest chunk is eight)."""


class KVCache(Protocol):
    """What the decoder asks of a cache: append this step's keys and values, attend over all that is visible."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
        """Append k, v [tokens, kv_heads, head_dim] at `layer`; return attention of q [tokens, heads, head_dim], same shape."""
        ...


@dataclass(frozen=True)
class KVShape:
    """Sizes that every layout needs."""

    layers: int
    kv_heads: int
    head_dim: int


def attention_rows(q: Tensor, k: Tensor, visible: Tensor, last: Tensor) -> Tensor:
    """Head-mean attention of each query to its own and the previous positions.

    Args:
        q: [rows, heads, head_dim].
        k: [rows or 1, kv_heads, length, head_dim].
        visible: bool [rows, length].
        last: int64 [rows], the index of each query's own position in `length`.

    Returns:
        float32 [rows, ATTENTION_WINDOW], computed in float32 whatever the type of q and k; column j is the position j
        before the query; zero before the start.
    """
    rows, heads, dim = q.shape
    kv_heads = k.shape[1]
    grouped = q.float().view(rows, kv_heads, heads // kv_heads, dim)
    scores = grouped @ k.float().mT * dim**-0.5  # [rows, kv_heads, heads / kv_heads, length]
    scores = scores.masked_fill(~visible[:, None, None, :], -torch.inf)
    mean = scores.softmax(-1).flatten(1, 2).mean(1)  # [rows, length]
    at = last[:, None] - torch.arange(ATTENTION_WINDOW, device=last.device)
    return mean.gather(1, at.clamp(min=0)).masked_fill(at < 0, 0.0)


class SequenceKV:
    """The cache of one sequence, with a length for each layer: upper layers may lag behind (early exit).

    Rollback is `truncate`; memory doubles when full and is freed with the object.
    """

    def __init__(
        self,
        shape: KVShape,
        *,
        probe_layer: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        self.shape = shape
        self.lengths = [0] * shape.layers
        self.probe_layer = probe_layer
        self.probed: Tensor | None = None
        """Attention rows of the last `attend` at the probe layer, float32 [tokens, ATTENTION_WINDOW]."""
        self._kv = [torch.empty(2, shape.kv_heads, 64, shape.head_dim, dtype=dtype, device=device) for _ in range(shape.layers)]

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(t.numel() * t.element_size() for t in self._kv)

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on, at every layer."""
        if length < 0:
            raise ValueError(f"cannot truncate a KV cache to length {length}; it must be at least 0")
        self.lengths = [min(n, length) for n in self.lengths]

    def _append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        start, stop = self.lengths[layer], self.lengths[layer] + k.shape[0]
        store = self._kv[layer]
        if stop > store.shape[2]:
            grown = store.new_empty(2, store.shape[1], max(stop, 2 * store.shape[2]), store.shape[3])
            grown[:, :, :start] = store[:, :, :start]
            store = self._kv[layer] = grown
        store[0, :, start:stop] = k.transpose(0, 1)
        store[1, :, start:stop] = v.transpose(0, 1)
        self.lengths[layer] = stop
        return store[0, :, :stop], store[1, :, :stop]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
        """See :class:`KVCache`."""
        tokens = q.shape[0]
        keys, values = self._append(layer, k, v)  # [kv_heads, length, head_dim]
        length = keys.shape[1]
        mask = None
        if tokens > 1 or window is not None or layer == self.probe_layer:
            mask = _causal_mask(tokens, length, window, q.device)
        if layer == self.probe_layer and mask is not None:
            last = torch.arange(length - tokens, length, device=q.device)
            self.probed = attention_rows(q, keys[None], mask, last)
        plain = tokens == 1 and window is None
        out = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            keys[None],
            values[None],
            attn_mask=None if plain else mask,
            enable_gqa=q.shape[1] != keys.shape[0],
        )
        return out[0].transpose(0, 1)


def _causal_mask(tokens: int, length: int, window: int | None, device: torch.device) -> Tensor:
    query = torch.arange(length - tokens, length, device=device)[:, None]
    key = torch.arange(length, device=device)[None]
    mask = key <= query
    return mask if window is None else mask & (key > query - window)


class RaggedKV:
    """A batch of sequences of different lengths, laid end to end: what one forward of the cloud runs over."""

    def __init__(self, caches: Sequence[SequenceKV], tokens: Sequence[int]) -> None:
        self.caches, self.tokens = list(caches), list(tokens)

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, window: int | None) -> Tensor:
        """See :class:`KVCache`; rows are split by sequence, in order."""
        parts = zip(self.caches, q.split(self.tokens), k.split(self.tokens), v.split(self.tokens), strict=True)
        return torch.cat([cache.attend(layer, q_rows, k_rows, v_rows, window) for cache, q_rows, k_rows, v_rows in parts])
