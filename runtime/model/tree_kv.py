"""The cache of many prefixes that share their beginnings: what the recorder of token graphs runs over.

What does not live here: which nodes are run (traces/synera/record.py), the compiled attention (tree_attention.py) and the
caches of single sequences (kv.py).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.model.kv import KVShape
from runtime.model.placement import moved


def attends_in_place(dtype: torch.dtype, device: str | torch.device) -> bool:
    """Whether a cache of this type reads keys and values where they are; others gather those of every path first."""
    return dtype == torch.float32 and torch.device(device).type == "cpu"


class TreeKV:
    """Many prefixes that share their beginnings: one slot a node, a path of slots from the root to each node.

    Whoever expands a tree runs a whole frontier of it in one forward. Float32 on the CPU is attended in place by a compiled
    loop; elsewhere the keys and values of every path are gathered first, which costs many times as much, also in memory.
    """

    def __init__(
        self,
        shape: KVShape,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        room: int = 1024,
    ) -> None:
        """Make an empty cache.

        Args:
            shape: sizes of the model's keys and values.
            dtype: of keys and values.
            device: where they are.
            room: slots to begin with; more are made as they are named, at the cost of a copy. What is not used of it costs
                no memory on a CPU.
        """
        self.shape = shape
        self._kv = torch.empty(shape.layers, room, 2 * shape.kv_heads, shape.head_dim, dtype=dtype, device=device)  # keys first
        self._slots = self._paths = self._lengths = torch.empty(0, dtype=torch.int64, device=device)
        self._visible = torch.empty(0, dtype=torch.bool, device=device)
        self._in_place = attends_in_place(dtype, device)

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self._kv.numel() * self._kv.element_size()

    def place(self, slots: Tensor, paths: Tensor, lengths: Tensor) -> None:
        """Say where the next forward's rows go and what they see. The tensors are best on the CPU; they are moved.

        Args:
            slots: int64 [rows], a slot for each row; what was in it is gone.
            paths: int64 [rows, longest], slots from the root to the row's own, padded with any valid slot.
            lengths: int64 [rows], the true length of each path.
        """
        needed = int(slots.max()) + 1
        if needed > self._kv.shape[1]:
            layers, have, heads, dim = self._kv.shape
            grown = self._kv.new_empty(layers, max(needed, 2 * have), heads, dim)
            grown[:, :have] = self._kv
            self._kv = grown
        self._slots, self._paths, self._lengths = (moved(t, self._kv.device) for t in (slots, paths, lengths))
        if not self._in_place:
            places = torch.arange(paths.shape[1], device=self._kv.device)
            self._visible = places[None] < self._lengths[:, None]

    def attend(self, layer: int, q: Tensor, kv: Tensor, window: int | None) -> Tensor:
        """See :class:`KVCache`; every row is a query at the end of its own path."""
        store = self._kv[layer]
        store.index_copy_(0, self._slots, kv)
        if not self._in_place:
            return self._attend_gathered(store, q, window)
        from runtime.model.tree_attention import attend_paths  # loads numba, which only whoever records needs

        return attend_paths(q, store, self._paths, self._lengths, window)

    def _attend_gathered(self, store: Tensor, q: Tensor, window: int | None) -> Tensor:
        """Attend over copies of the keys and values of each path, [rows, kv_heads, longest, head_dim]."""
        keys, values = store[self._paths].transpose(1, 2).chunk(2, 1)
        visible = self._visible
        if window is not None:
            place = torch.arange(visible.shape[1], device=visible.device)[None]
            visible = visible & (place >= self._lengths[:, None] - window)
        out = F.scaled_dot_product_attention(
            q[:, :, None], keys, values, attn_mask=visible[:, None, None], enable_gqa=q.shape[1] != keys.shape[1]
        )
        return out[:, :, 0]
