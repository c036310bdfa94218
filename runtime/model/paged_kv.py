"""Keys and values of many sequences in one store of equal blocks, and a forward over some of them at once.

What does not live here: which sequence has which blocks (cloud/engine/embedded/kv_pool.py), the compiled attention of a few rows
(paged_attention.py), caches of single sequences (kv.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.model.kv import KVShape
from runtime.model.placement import moved

BLOCK_TOKENS = 16
"""Places of a block."""
FEW_ROWS = 32
"""A sequence with at most so many rows in a forward is attended by the compiled loop where there is one; measured."""


@dataclass(frozen=True, slots=True)
class Part:
    """One sequence's part of a forward."""

    blocks: Sequence[int]
    """Its blocks, in order; those behind its last row are not looked at."""
    start: int
    """Place of its first row; what is before it is there."""
    rows: int

    @property
    def places(self) -> range:
        """Of its rows."""
        return range(self.start, self.start + self.rows)

    @property
    def needed(self) -> Sequence[int]:
        """Blocks up to its last row."""
        return self.blocks[: -(-(self.start + self.rows) // BLOCK_TOKENS)]

    @property
    def size(self) -> tuple[int, int]:
        """Rows and blocks, as powers of two that hold them: parts of one size are attended together."""
        return self.rows.bit_length(), len(self.needed).bit_length()


class PagedStore:
    """Room for keys and values, by layer and block; what is not used of it costs no memory on a CPU."""

    def __init__(
        self, shape: KVShape, blocks: int, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> None:
        self.shape, self.blocks, self.device = shape, blocks, torch.device(device)
        size = blocks, 2 * shape.kv_heads, BLOCK_TOKENS, shape.head_dim  # keys first
        self.layers = [torch.zeros(size, dtype=dtype, device=device) for _ in range(shape.layers)]
        self.compiled = dtype == torch.float32 and self.device.type == "cpu"
        """Whether few rows are attended in place; elsewhere keys and values are gathered first."""


class PagedKV:
    """The cache of one forward over a ragged batch; see :class:`runtime.model.kv.KVCache`. Rows are by part, in order."""

    def __init__(self, store: PagedStore, parts: Sequence[Part]) -> None:
        """Work out, once for all layers, where rows go and what they see.

        Args:
            store: that of the model.
            parts: no two of them write to one block.
        """
        self._store = store
        rows = [(part.blocks[place // BLOCK_TOKENS], place % BLOCK_TOKENS) for part in parts for place in part.places]
        self._blocks, self._offsets = moved(torch.tensor(rows), store.device).unbind(1)
        firsts = [0, *accumulate(part.rows for part in parts)]
        placed = list(zip(parts, firsts, strict=False))
        few = [each for each in placed if store.compiled and each[0].rows <= FEW_ROWS]
        many = [each for each in placed if not (store.compiled and each[0].rows <= FEW_ROWS)]
        many.sort(key=lambda each: each[0].size)
        self._groups: list[_Few | _Padded] = [_Few(few)] if few else []
        self._groups += [_Padded(list(alike), store.device) for _, alike in groupby(many, key=lambda each: each[0].size)]

    def attend(self, layer: int, q: Tensor, kv: Tensor, window: int | None) -> Tensor:
        """See :class:`runtime.model.kv.KVCache`."""
        store = self._store.layers[layer]
        # Who has a block next weighs the places that it has not filled with 0, and 0 times what is not finite is not 0.
        store[self._blocks, :, self._offsets] = kv.nan_to_num(0.0, 0.0, 0.0)
        out = torch.empty_like(q)
        for group in self._groups:
            group.attend(store, q, window, out)
        return out


class _Few:
    """Parts of few rows each, attended in place by a compiled loop."""

    def __init__(self, placed: Sequence[tuple[Part, int]]) -> None:
        from runtime.model.paged_attention import Tables  # loads numba, which only whoever serves needs

        self._tables = Tables.of([(part.blocks, part.start, part.rows, first) for part, first in placed])

    def attend(self, store: Tensor, q: Tensor, window: int | None, out: Tensor) -> None:
        self._tables.attend(store, q, window, out)


class _Padded:
    """Parts of about the same size, attended at once over copies of their keys and values."""

    def __init__(self, placed: Sequence[tuple[Part, int]], device: torch.device) -> None:
        self._rows = max(part.rows for part, _ in placed)
        blocks = max(len(part.needed) for part, _ in placed)
        first = torch.tensor([first for _, first in placed])[:, None]
        rows = torch.tensor([part.rows for part, _ in placed])[:, None]
        start = torch.tensor([part.start for part, _ in placed])[:, None]
        row = torch.arange(self._rows)[None].minimum(rows - 1)  # beyond its last a part repeats it
        self._tables = moved(
            torch.tensor([[*part.needed, *[part.needed[0]] * (blocks - len(part.needed))] for part, _ in placed]), device
        )
        self._sources = moved((first + row).flatten(), device)
        self._places = moved(start + row, device)  # [parts, rows]
        self._masks: dict[int | None, Tensor] = {}

    def attend(self, store: Tensor, q: Tensor, window: int | None, out: Tensor) -> None:
        parts, blocks = self._tables.shape
        _, heads, head_dim = q.shape
        # [parts, blocks, 2 * kv_heads, places, head_dim] to [parts, 2 * kv_heads, blocks * places, head_dim]
        gathered = store[self._tables].transpose(1, 2).reshape(parts, -1, blocks * BLOCK_TOKENS, head_dim)
        keys, values = gathered.chunk(2, 1)
        asked = q[self._sources].view(parts, self._rows, heads, head_dim).transpose(1, 2)
        mask = self._mask(blocks * BLOCK_TOKENS, window)
        found = F.scaled_dot_product_attention(asked, keys, values, attn_mask=mask, enable_gqa=heads != keys.shape[1])
        out[self._sources] = found.transpose(1, 2).reshape(-1, heads, head_dim)

    def _mask(self, length: int, window: int | None) -> Tensor:
        """What each row sees, bool [parts, 1, rows, length]; the layers of a forward share it."""
        if window not in self._masks:
            key, places = torch.arange(length, device=self._places.device), self._places[:, None, :, None]
            mask = key <= places
            self._masks[window] = mask if window is None else mask & (key > places - window)
        return self._masks[window]
