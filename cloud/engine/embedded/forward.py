"""One forward of the model core over a ragged batch, and the small interface through which the batcher sees it.

What does not live here: the layers (runtime/model/decoder.py), keys and values (runtime/model/paged_kv.py), who has which blocks
(kv_pool.py), who shares a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from runtime.model.decoder import Decoder
from runtime.model.paged_kv import PagedKV, PagedStore, Part
from runtime.model.placement import moved

Inputs = TypeVar("Inputs", bound=Sized)
"""What goes in of a sequence, a place each: token ids, or hidden states [places, hidden]."""
Result_co = TypeVar("Result_co", covariant=True)
"""What comes out of one work."""


@dataclass(frozen=True, slots=True)
class Work(Generic[Inputs]):
    """One sequence's part of a forward."""

    blocks: Sequence[int]
    """Where its keys and values are, and room for these inputs'. No two works of a batch write to one block."""
    position: int
    """Where the inputs go; all places before are filled. What is behind is overwritten."""
    inputs: Inputs
    """At least one."""
    wanted: int
    """How many of the last positions need a result, 0..len(inputs)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What the LLM says after the wanted positions of one work."""

    choices: list[int]
    """Its argmax ids [wanted]."""
    logits: Tensor
    """[wanted, vocab], where the model runs; it lives as long as somebody holds it."""


class Forward(Protocol[Inputs, Result_co]):
    """Runs the LLM, or the middle of it, on the engine's thread alone."""

    @property
    def blocks(self) -> int:
        """How many blocks of keys and values there is room for."""
        ...

    def run(self, batch: Sequence[Work[Inputs]]) -> Sequence[Result_co]:
        """Run one forward over a ragged batch; return the result of each work, in order. It may be run again after a failure."""
        ...


class _Paged:
    """A decoder and its keys and values."""

    def __init__(self, decoder: Decoder, blocks: int) -> None:
        self._decoder = decoder
        self._store = PagedStore(decoder.kv_shape, blocks, dtype=decoder.dtype, device=decoder.device)
        self._layers = decoder.layers[0], decoder.layers[-1] + 1

    @property
    def blocks(self) -> int:
        """See :class:`Forward`."""
        return self._store.blocks

    def _wanted(self, states: Tensor, batch: Sequence[Work[Inputs]]) -> Tensor:
        """Run the layers over the rows of all works; return those that are wanted, [all that are wanted, hidden]."""
        parts = [Part(work.blocks, work.position, len(work.inputs)) for work in batch]
        wanted, rows = list[int](), 0
        for work in batch:
            rows += len(work.inputs)
            wanted += range(rows - work.wanted, rows)
        positions = torch.tensor([place for part in parts for place in part.places])
        hidden = self._decoder.run(states, positions, PagedKV(self._store, parts), *self._layers)
        return hidden[moved(torch.tensor(wanted, dtype=torch.int64), hidden.device)]


class TorchForward(_Paged):
    """Implements :class:`Forward` of token ids over a whole decoder."""

    @torch.inference_mode()
    def run(self, batch: Sequence[Work[list[int]]]) -> list[Rows]:
        """See :class:`Forward`; the head runs only over the positions that are wanted."""
        ids = torch.tensor([token for work in batch for token in work.inputs])
        logits = self._decoder.logits(self._wanted(self._decoder.embed(ids), batch))
        choices = logits.argmax(-1).tolist()  # [all that are wanted]
        return [Rows(choices[part], logits[part]) for part in _parts(batch)]


class MiddleForward(_Paged):
    """Implements :class:`Forward` of hidden states over the middle of a decoder; a result is states [wanted, hidden], too."""

    @torch.inference_mode()
    def run(self, batch: Sequence[Work[Tensor]]) -> list[Tensor]:
        """See :class:`Forward`; states come in any float type, and go out in the decoder's, where it runs."""
        states = torch.cat([work.inputs for work in batch]).to(self._decoder.device, self._decoder.dtype)
        hidden = self._wanted(states, batch)
        return [hidden[part] for part in _parts(batch)]


def _parts(batch: Sequence[Work[Inputs]]) -> Iterator[slice]:
    """Each work's part of all that is wanted."""
    start = 0
    for work in batch:
        yield slice(start, start + work.wanted)
        start += work.wanted
