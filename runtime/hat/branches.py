"""Keys and values of several continuations of one prefix, which they share: what the device drafts on while a draft is away.

What does not live here: the prefix's own cache (runtime/model/kv.py) and what is drafted (ends.py).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from runtime.model.kv import SequenceKV


class BranchKV:
    """Implements :class:`runtime.model.kv.KVCache` over so many branches: each forward has one row of each, in order.

    Nothing of the prefix is copied, and nothing is written to its cache before a branch is adopted.
    """

    def __init__(self, prefix: SequenceKV, length: int, branches: int) -> None:
        """Begin.

        Args:
            prefix: the cache of the prefix, which is not to shrink below the length meanwhile.
            length: its positions that the branches share.
            branches: how many.
        """
        self._prefix, self._length, self._branches = prefix, length, branches
        self._own: list[list[Tensor]] = [[] for _ in prefix.lengths]  # by layer and step, [branches, 2 * kv_heads, head_dim]

    def attend(self, layer: int, q: Tensor, kv: Tensor, window: int | None) -> Tensor:
        """See :class:`runtime.model.kv.KVCache`; each row sees the prefix and its own branch."""
        own = self._own[layer]
        own.append(kv)
        first = 0 if window is None else max(0, self._length + len(own) - window)
        keys, values = (part[:, first:] for part in self._prefix.seen(layer, self._length))
        rows, heads, head_dim = q.shape
        kv_heads, shared = keys.shape[:2]
        asked = q.view(rows, kv_heads, heads // kv_heads, head_dim)
        since = torch.stack(own[max(0, first - self._length) :], 2)  # [branches, 2 * kv_heads, steps, head_dim]
        new_keys, new_values = since.chunk(2, 1)
        scores = torch.cat([torch.einsum("bkgd,ktd->bkgt", asked, keys), torch.einsum("bkgd,bktd->bkgt", asked, new_keys)], -1)
        weights = (scores / math.sqrt(head_dim)).softmax(-1)
        out = torch.einsum("bkgt,ktd->bkgd", weights[..., :shared], values)
        out += torch.einsum("bkgt,bktd->bkgd", weights[..., shared:], new_values)
        return out.reshape(rows, heads, head_dim)

    def adopt(self, branch: int, steps: int) -> None:
        """Let the prefix go on, from the shared length, with the first steps of a branch."""
        self._prefix.truncate(self._length)
        for layer, own in enumerate(self._own):
            if own:
                self._prefix.append(layer, torch.stack([each[branch] for each in own[:steps]]))
