"""One forward of the model core over a ragged batch, and the small interface through which the batcher sees it.

What does not live here: the layers (runtime/model/decoder.py), the caches (runtime/model/kv.py), who shares a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from runtime.model.decoder import Decoder
from runtime.model.kv import RaggedKV, SequenceKV
from runtime.model.placement import moved


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence's part of a forward."""

    cache: Any
    """From this forward's `new_cache`; nobody else looks inside. No two works of a batch share one."""
    position: int
    """Positions of the cache to keep: where the tokens go. What it holds beyond is forgotten first, be it a rejected
    draft or what a failed or abandoned forward left behind."""
    tokens: Sequence[int]
    """Token ids, at least one."""
    wanted: int
    """How many of the last positions need a choice, 1..len(tokens)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What the LLM says after the wanted positions of one work."""

    choices: list[int]
    """Its argmax ids [wanted]."""
    logits: Tensor
    """[wanted, vocab], where the model runs; it lives as long as somebody holds it."""


class Forward(Protocol):
    """Runs the LLM. `run` is called by the engine's thread alone, `new_cache` by any."""

    def new_cache(self) -> Any:
        """Return an empty cache."""
        ...

    def run(self, batch: Sequence[Work]) -> Sequence[Rows]:
        """Run one forward over a ragged batch; return the rows of each work, in order."""
        ...


class TorchForward:
    """Implements :class:`Forward` over a decoder."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def new_cache(self) -> SequenceKV:
        """Return an empty cache."""
        return self._decoder.new_cache()

    @torch.inference_mode()
    def run(self, batch: Sequence[Work]) -> list[Rows]:
        """See :class:`Forward`; the head runs only over the positions that are wanted."""
        positions: list[int] = []
        wanted: list[int] = []  # rows of the batch
        for work in batch:
            work.cache.truncate(work.position)
            positions += range(work.position, work.position + len(work.tokens))
            wanted += range(len(positions) - work.wanted, len(positions))
        ids = torch.tensor([token for work in batch for token in work.tokens])
        kv = RaggedKV([work.cache for work in batch], [len(work.tokens) for work in batch])
        hidden = self._decoder.run(self._decoder.embed(ids), torch.tensor(positions), kv)
        logits = self._decoder.logits(hidden[moved(torch.tensor(wanted), hidden.device)])  # [sum of wanted, vocab]
        choices = logits.argmax(-1).tolist()
        results, start = [], 0
        for work in batch:
            end = start + work.wanted
            results.append(Rows(choices[start:end], logits[start:end]))
            start = end
        return results
