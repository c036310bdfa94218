"""Attention of a few rows of each of many sequences over blocks of keys and values, compiled: nothing is gathered.

What does not live here: the blocks and who asks (paged_kv.py). Float32 on the CPU only; importing this loads numba.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from runtime.model.tree_attention import compiled


@dataclass(frozen=True, slots=True)
class Tables:
    """Where the rows of some sequences are, and what they see."""

    blocks: NDArray[np.int64]
    """[sequences, most blocks], blocks of each in order; anything past its last row's."""
    starts: NDArray[np.int64]
    """[sequences], place of the first row."""
    rows: NDArray[np.int64]
    """[sequences]."""
    firsts: NDArray[np.int64]
    """[sequences], the first row's index among all."""

    @classmethod
    def of(cls, parts: Sequence[tuple[Sequence[int], int, int, int]]) -> Self:
        """Lay out blocks, start, rows and first row's index of each sequence."""
        blocks = np.zeros((len(parts), max(len(part[0]) for part in parts)), np.int64)
        for row, part in zip(blocks, parts, strict=True):
            row[: len(part[0])] = part[0]
        starts, rows, firsts = np.array([part[1:] for part in parts], np.int64).T.copy()
        return cls(blocks, starts, rows, firsts)

    def attend(self, store: Tensor, q: Tensor, window: int | None, out: Tensor) -> None:
        """Attend with each row over its sequence up to itself; releases the interpreter's lock while it works.

        Args:
            store: float32 [blocks, 2 * kv_heads, places, head_dim], contiguous, keys and then values.
            q: float32 [rows, heads, head_dim].
            window: how many places a row sees, its own included; None is all.
            out: [rows, heads, head_dim]; the rows of these sequences are filled.
        """
        longest = int((self.starts + self.rows).max())
        seen = longest if window is None else window
        places = store.shape[2]
        total = int(self.rows.sum())
        weights = q.new_empty(total, q.shape[1], -(-longest // places) * places)
        tables = self.blocks, self.starts, self.rows, self.firsts
        asked, stored = q.contiguous().numpy(), store.numpy()
        _score(asked, stored, *tables, seen, weights.numpy())
        weights = weights.softmax(-1)  # torch's is vectorised, as the exponential of a compiled loop is not everywhere
        _mix(weights.numpy(), stored, *tables, seen, out.numpy())


@compiled
def _score(q, store, blocks, starts, rows, firsts, seen, out):  # type: ignore[no-untyped-def]
    """Scaled products of queries and keys [rows of these sequences, heads, places]; minus infinity where a row sees nothing."""
    heads, dim = q.shape[1], q.shape[2]
    kv_heads, places = store.shape[1] // 2, store.shape[2]
    group = heads // kv_heads
    scale = np.float32(1 / np.sqrt(dim))
    at = 0
    for each in range(len(starts)):
        start, count, first = starts[each], rows[each], firsts[each]
        lowest = max(0, start + 1 - seen) // places
        highest = (start + count - 1) // places
        for block in range(lowest, highest + 1):
            held = blocks[each, block]
            for kv_head in range(kv_heads):
                keys = store[held, kv_head]
                for row in range(count):
                    for head in range(kv_head * group, (kv_head + 1) * group):
                        asked = q[first + row, head]
                        said = out[at + row, head, block * places : (block + 1) * places]
                        for place in range(0, places, 4):
                            a = b = c = e = np.float32(0)
                            for d in range(dim):
                                a += asked[d] * keys[place, d]
                                b += asked[d] * keys[place + 1, d]
                                c += asked[d] * keys[place + 2, d]
                                e += asked[d] * keys[place + 3, d]
                            said[place] = a * scale
                            said[place + 1] = b * scale
                            said[place + 2] = c * scale
                            said[place + 3] = e * scale
        for row in range(count):
            last = start + row
            out[at + row, :, : max(0, last + 1 - seen)] = -np.inf
            out[at + row, :, last + 1 :] = -np.inf
        at += count


@compiled
def _mix(weights, store, blocks, starts, rows, firsts, seen, out):  # type: ignore[no-untyped-def]
    """Sums of values by weight, into the rows of these sequences [rows, heads, head_dim]."""
    heads, dim = out.shape[1], out.shape[2]
    kv_heads, places = store.shape[1] // 2, store.shape[2]
    group = heads // kv_heads
    at = 0
    for each in range(len(starts)):
        start, count, first = starts[each], rows[each], firsts[each]
        lowest = max(0, start + 1 - seen) // places
        highest = (start + count - 1) // places
        out[first : first + count] = 0
        for block in range(lowest, highest + 1):
            held = blocks[each, block]
            for kv_head in range(kv_heads):
                values = store[held, kv_heads + kv_head]
                for row in range(count):
                    for head in range(kv_head * group, (kv_head + 1) * group):
                        weight = weights[at + row, head, block * places : (block + 1) * places]
                        mixed = out[first + row, head]
                        for place in range(0, places, 4):
                            a, b, c, e = weight[place], weight[place + 1], weight[place + 2], weight[place + 3]
                            for d in range(dim):
                                mixed[d] += (
                                    a * values[place, d]
                                    + b * values[place + 1, d]
                                    + c * values[place + 2, d]
                                    + e * values[place + 3, d]
                                )
        at += count
