"""The cache of many prefixes that share their beginnings: what the recorder of token graphs runs over.

What does not live here: which nodes are run (traces/synera/record.py) and the caches of single sequences (kv.py).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.model.kv import KVShape
from runtime.model.placement import moved


class TreeKV:
    """Many prefixes that share their beginnings: one slot a node, a path of slots from the root to each node.

    Used by the recorder, which expands a whole frontier of a token graph in one forward.
    """

    def __init__(
        self,
        shape: KVShape,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        self.shape = shape
        self._kv = torch.empty(shape.layers, 2, 1024, shape.kv_heads, shape.head_dim, dtype=dtype, device=device)
        self._slots = self._paths = self._last = torch.empty(0, dtype=torch.int64, device=device)
        self._visible = torch.empty(0, dtype=torch.bool, device=device)

    def place(self, slots: Tensor, paths: Tensor, lengths: Tensor) -> None:
        """Say where the next forward's rows go and what they see. The tensors are best on the CPU; they are moved.

        Args:
            slots: int64 [rows], a fresh slot for each row.
            paths: int64 [rows, longest], slots from the root to the row's own, padded with any valid slot.
            lengths: int64 [rows], the true length of each path.
        """
        needed = int(slots.max()) + 1
        if needed > self._kv.shape[2]:
            layers, two, have, heads, dim = self._kv.shape
            grown = self._kv.new_empty(layers, two, max(needed, 2 * have), heads, dim)
            grown[:, :, :have] = self._kv
            self._kv = grown
        visible = torch.arange(paths.shape[1], device=lengths.device)[None] < lengths[:, None]
        placed = (moved(t, self._kv.device) for t in (slots, paths, visible, lengths - 1))
        self._slots, self._paths, self._visible, self._last = placed

    def attend(self, layer: int, q: Tensor, kv: Tensor, window: int | None) -> Tensor:
        """See :class:`KVCache`; every row is a query at the end of its own path."""
        store = self._kv[layer]
        store[0, self._slots], store[1, self._slots] = kv.chunk(2, 1)
        keys = store[0][self._paths].transpose(1, 2)  # [rows, kv_heads, longest, head_dim]
        values = store[1][self._paths].transpose(1, 2)
        visible = self._visible
        if window is not None:
            key = torch.arange(visible.shape[1], device=visible.device)[None]
            visible = visible & (key > self._last[:, None] - window)
        out = F.scaled_dot_product_attention(
            q[:, :, None], keys, values, attn_mask=visible[:, None, None], enable_gqa=q.shape[1] != keys.shape[1]
        )
        return out[:, :, 0]
