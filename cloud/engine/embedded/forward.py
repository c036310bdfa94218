"""One forward of the model core over a ragged batch, and the small interface through which the batcher sees it.

What does not live here: the layers (runtime/model/decoder.py), keys and values (runtime/model/paged_kv.py), who has which blocks
(kv_pool.py), who shares a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from runtime.model.decoder import Decoder
from runtime.model.paged_kv import PagedKV, PagedStore, Part
from runtime.model.placement import moved


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's part of a forward."""

    blocks: Sequence[int]
    """Where its keys and values are, and room for these tokens'. No two works of a batch write to one block."""
    position: int
    """Where the tokens go; all places before are filled. What is behind is overwritten."""
    tokens: Sequence[int]
    """Token ids, at least one."""
    wanted: int
    """How many of the last positions need a choice, 0..len(tokens)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What the LLM says after the wanted positions of one work."""

    choices: list[int]
    """Its argmax ids [wanted]."""
    logits: Tensor
    """[wanted, vocab], where the model runs; it lives as long as somebody holds it."""


class Forward(Protocol):
    """Runs the LLM, on the engine's thread alone."""

    @property
    def blocks(self) -> int:
        """How many blocks of keys and values there is room for."""
        ...

    def run(self, batch: Sequence[Work]) -> Sequence[Rows]:
        """Run one forward over a ragged batch; return the rows of each work, in order. It may be run again after a failure."""
        ...


class TorchForward:
    """Implements :class:`Forward` over a decoder."""

    def __init__(self, decoder: Decoder, blocks: int) -> None:
        self._decoder = decoder
        self._store = PagedStore(decoder.kv_shape, blocks, dtype=decoder.dtype, device=decoder.device)

    @property
    def blocks(self) -> int:
        """See :class:`Forward`."""
        return self._store.blocks

    @torch.inference_mode()
    def run(self, batch: Sequence[Work]) -> list[Rows]:
        """See :class:`Forward`; the head runs only over the positions that are wanted."""
        parts = [Part(work.blocks, work.position, len(work.tokens)) for work in batch]
        wanted, rows = list[int](), 0
        for work in batch:
            rows += len(work.tokens)
            wanted += range(rows - work.wanted, rows)
        ids = torch.tensor([token for work in batch for token in work.tokens])
        positions = torch.tensor([place for part in parts for place in part.places])
        hidden = self._decoder.run(self._decoder.embed(ids), positions, PagedKV(self._store, parts))
        logits = self._decoder.logits(hidden[moved(torch.tensor(wanted, dtype=torch.int64), hidden.device)])
        choices = logits.argmax(-1).tolist()  # [all that are wanted]
        results, start = [], 0
        for work in batch:
            end = start + work.wanted
            results.append(Rows(choices[start:end], logits[start:end]))
            start = end
        return results
