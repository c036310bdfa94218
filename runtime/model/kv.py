"""KV caches of sequences: one interface (`attend`). A cache stores keys and values and does the attention over them.

What does not live here: which positions go through which layers (exits.py) and who owns a cache (runtime/synera/, cloud/).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class KVCache(Protocol):
    """What the decoder asks of a cache: append this step's keys and values, attend over all that is visible."""

    def attend(self, layer: int, q: Tensor, kv: Tensor, window: int | None) -> Tensor:
        """Append keys and values at `layer`, and attend.

        Args:
            layer: which layer's.
            q: queries [tokens, heads, head_dim].
            kv: keys, then values, of the same tokens [tokens, 2 * kv_heads, head_dim].
            window: how many positions a query sees, its own included; None sees all before it.

        Returns:
            [tokens, heads, head_dim].
        """
        ...


@dataclass(frozen=True)
class KVShape:
    """Sizes that every layout needs."""

    layers: int
    kv_heads: int
    head_dim: int


class _Slab:
    """Room for the keys and values of one layer, and the ways it is looked at, made once: each view is an operation."""

    def __init__(self, store: Tensor) -> None:
        self.store = store  # [2 * kv_heads, room, head_dim], keys first
        self.room = store.shape[1]
        self.rows = store.transpose(0, 1)
        self.keys, self.values = store.chunk(2)  # [kv_heads, room, head_dim]

    def grown(self, room: int, used: int) -> _Slab:
        """Return a larger one that holds the first `used` positions."""
        slab = _Slab(self.store.new_empty(self.store.shape[0], room, self.store.shape[2]))
        slab.store[:, :used] = self.store[:, :used]
        return slab


class SequenceKV:
    """The cache of one sequence, with a length for each layer: upper layers may lag behind (early exit).

    Rollback is `truncate`; memory doubles when full and is freed with the object.
    """

    def __init__(
        self,
        shape: KVShape,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        self.shape = shape
        self.lengths = [0] * shape.layers
        sizes = (2 * shape.kv_heads, 64, shape.head_dim)
        self._slabs = [_Slab(torch.empty(sizes, dtype=dtype, device=device)) for _ in range(shape.layers)]
        self._masked: tuple[int, int, int | None] | None = None
        self._visible = torch.empty(0, device=device)

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(slab.store.numel() * slab.store.element_size() for slab in self._slabs)

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on, at every layer."""
        if length < 0:
            raise ValueError(f"cannot truncate a KV cache to length {length}; it must be at least 0")
        self.lengths = [min(n, length) for n in self.lengths]

    def append(self, layer: int, kv: Tensor) -> None:
        """Append keys, then values, of some positions at `layer`, [positions, 2 * kv_heads, head_dim]."""
        slab, start = self._slabs[layer], self.lengths[layer]
        stop = self.lengths[layer] = start + kv.shape[0]
        if stop > slab.room:
            slab = self._slabs[layer] = slab.grown(max(stop, 2 * slab.room), start)
        slab.rows[start:stop] = kv

    def seen(self, layer: int, length: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the first `length` positions at `layer`, each [kv_heads, length, head_dim]; views."""
        slab = self._slabs[layer]
        return slab.keys[:, :length], slab.values[:, :length]

    def attend(self, layer: int, q: Tensor, kv: Tensor, window: int | None) -> Tensor:
        """See :class:`KVCache`."""
        tokens, start = q.shape[0], self.lengths[layer]
        self.append(layer, kv)
        slab, stop = self._slabs[layer], start + tokens
        first = 0 if window is None else max(0, start + 1 - window)  # what the first row sees
        keys, values, length = slab.keys[:, first:stop], slab.values[:, first:stop], stop - first
        whole = tokens == length and window is None  # torch needs no mask for these
        mask = None if whole or tokens == 1 else self._mask(tokens, length, window)
        out = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            keys[None],
            values[None],
            attn_mask=mask,
            is_causal=whole,
            enable_gqa=q.shape[1] != keys.shape[0],
        )
        return out[0].transpose(0, 1)

    def _mask(self, tokens: int, length: int, window: int | None) -> Tensor:
        """Which of `length` positions the last `tokens` of them see, bool [tokens, length]; the layers of a forward share it."""
        if self._masked != (tokens, length, window):
            self._masked = (tokens, length, window)
            self._visible = _causal_mask(tokens, length, window, self._visible.device)
        return self._visible


def _causal_mask(tokens: int, length: int, window: int | None, device: torch.device) -> Tensor:
    query = torch.arange(length - tokens, length, device=device)[:, None]
    key = torch.arange(length, device=device)[None]
    mask = key <= query
    return mask if window is None else mask & (key > query - window)


class RaggedKV:
    """A batch of sequences of different lengths, laid end to end: what one forward of the cloud runs over."""

    def __init__(self, caches: Sequence[SequenceKV], tokens: Sequence[int]) -> None:
        self.caches, self.tokens = list(caches), list(tokens)

    def attend(self, layer: int, q: Tensor, kv: Tensor, window: int | None) -> Tensor:
        """See :class:`KVCache`; rows are split by sequence, in order."""
        parts = zip(self.caches, q.split(self.tokens), kv.split(self.tokens), strict=True)
        return torch.cat([cache.attend(layer, q_rows, kv_rows, window) for cache, q_rows, kv_rows in parts])
