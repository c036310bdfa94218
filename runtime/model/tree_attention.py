"""Attention of many rows, each along its own path of slots, compiled: nothing is gathered, keys and values are read in place.

What does not live here: the slots and who asks (tree_kv.py). Float32 on the CPU only; importing this loads numba.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numba import njit
from torch import Tensor


def attend_paths(q: Tensor, store: Tensor, paths: Tensor, lengths: Tensor, window: int | None) -> Tensor:
    """Attend with each row over the slots of its path; releases the interpreter's lock while it works.

    Args:
        q: float32 [rows, heads, head_dim].
        store: float32 [slots, 2 * kv_heads, head_dim], contiguous, keys and then values; the heads of a group share one.
        paths: int64 [rows, longest], contiguous, slots of each row's path; anything past its length.
        lengths: int64 [rows], at least 1.
        window: how many slots at the end of its path a row sees; None is all.

    Returns:
        [rows, heads, head_dim].
    """
    rows, heads, _ = q.shape
    q, seen = q.contiguous(), paths.shape[1] if window is None else window
    weights, out = q.new_empty(rows, heads, paths.shape[1] + 3), torch.empty_like(q)  # room for the last four places
    _score(q.numpy(), store.numpy(), paths.numpy(), lengths.numpy(), seen, weights.numpy())
    weights = weights.softmax(-1)  # torch's is vectorised, as the exponential of a compiled loop is not everywhere
    _mix(weights.numpy(), store.numpy(), paths.numpy(), lengths.numpy(), seen, out.numpy())
    return out


def compiled(loop: Callable[..., None]) -> Callable[..., None]:
    """Compile a loop, once a machine where what was compiled can be kept in a file, else once a process."""

    def built(*, cache: bool) -> Callable[..., None]:
        # Sums may be reordered, so that they are vectorised; infinities keep their meaning.
        return njit(cache=cache, nogil=True, error_model="numpy", fastmath={"reassoc", "nsz", "contract"})(loop)

    try:
        return built(cache=True)
    except RuntimeError:  # numba finds no folder that can be written
        return built(cache=False)


# Two loops, as one that reads and writes floats of both kinds must fear that they overlap, and is half as fast. Four places
# at once, as a query is then read, and a sum written, a quarter as often; past the end the last slot counts for nothing.


@compiled
def _score(q, store, paths, lengths, seen, out):  # type: ignore[no-untyped-def]
    """Scaled products of queries and keys [rows, heads, longest + 3]; minus infinity where a row sees nothing."""
    rows, heads, dim = q.shape
    kv_heads = store.shape[1] // 2
    group = heads // kv_heads
    scale = np.float32(1 / np.sqrt(dim))
    for row in range(rows):
        last = lengths[row] - 1
        first = max(0, last + 1 - seen)
        for place in range(first, last + 1, 4):
            a, b = paths[row, place], paths[row, min(place + 1, last)]
            c, e = paths[row, min(place + 2, last)], paths[row, min(place + 3, last)]
            for kv_head in range(kv_heads):
                for head in range(kv_head * group, (kv_head + 1) * group):
                    of_a = of_b = of_c = of_e = np.float32(0)
                    for d in range(dim):
                        asked = q[row, head, d]
                        of_a += asked * store[a, kv_head, d]
                        of_b += asked * store[b, kv_head, d]
                        of_c += asked * store[c, kv_head, d]
                        of_e += asked * store[e, kv_head, d]
                    out[row, head, place] = of_a * scale
                    out[row, head, place + 1] = of_b * scale
                    out[row, head, place + 2] = of_c * scale
                    out[row, head, place + 3] = of_e * scale
        out[row, :, :first] = -np.inf
        out[row, :, last + 1 :] = -np.inf


@compiled
def _mix(weights, store, paths, lengths, seen, out):  # type: ignore[no-untyped-def]
    """Sums of values by weight [rows, heads, head_dim]."""
    rows, heads, dim = out.shape
    kv_heads = store.shape[1] // 2
    group = heads // kv_heads
    for row in range(rows):
        last = lengths[row] - 1
        out[row] = 0
        for place in range(max(0, last + 1 - seen), last + 1, 4):
            a, b = paths[row, place], paths[row, min(place + 1, last)]
            c, e = paths[row, min(place + 2, last)], paths[row, min(place + 3, last)]
            for kv_head in range(kv_heads):
                for head in range(kv_head * group, (kv_head + 1) * group):
                    of_a, of_b = weights[row, head, place], weights[row, head, place + 1]
                    of_c, of_e = weights[row, head, place + 2], weights[row, head, place + 3]
                    for d in range(dim):
                        out[row, head, d] += (
                            of_a * store[a, kv_heads + kv_head, d]
                            + of_b * store[b, kv_heads + kv_head, d]
                            + of_c * store[c, kv_heads + kv_head, d]
                            + of_e * store[e, kv_heads + kv_head, d]
                        )
