"""The embedded engine: the model core over a ragged batch, on CPU or any torch device.

What does not live here: the layers (runtime/decoder.py) and the caches (runtime/kv.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from cloud.engine.base import EngineInfo, Work
from runtime.model.decoder import Decoder
from runtime.model.kv import RaggedKV, SequenceKV
from runtime.model.loading import fingerprint, load_decoder
from runtime.model.placement import Placement


class TorchEngine:
    """Implements :class:`cloud.engine.base.Engine`."""

    def __init__(self, decoder: Decoder, info: EngineInfo) -> None:
        self._decoder, self._info, self._device = decoder, info, decoder.device

    @classmethod
    def load(cls, folder: Path, placement: Placement = Placement()) -> TorchEngine:
        """Load a Hugging Face folder.

        Raises:
            CheckpointError: it is missing, incomplete, or not a supported model.
        """
        decoder = load_decoder(folder, placement)
        c = decoder.config
        info = EngineInfo(
            engine="torch",
            model=Path(folder).resolve().name,
            architecture=c.architecture,
            fingerprint=fingerprint(folder),
            vocab=c.vocab,
            context_tokens=c.context,
            eos_ids=c.eos_ids,
        )
        return cls(decoder, info)

    @property
    def info(self) -> EngineInfo:
        """What is served."""
        return self._info

    def new_cache(self) -> SequenceKV:
        """Return an empty cache."""
        return self._decoder.new_cache()

    @torch.inference_mode()
    def forward(self, batch: Sequence[Work]) -> list[list[int]]:
        """See :class:`cloud.engine.base.Engine`; the head runs only over the positions that are wanted."""
        ids = torch.tensor([token for work in batch for token in work.tokens], device=self._device)
        positions = torch.cat([torch.arange(work.position, work.position + len(work.tokens)) for work in batch]).to(
            self._device
        )
        kv = RaggedKV([work.cache for work in batch], [len(work.tokens) for work in batch])
        hidden = self._decoder.run(self._decoder.embed(ids), positions, kv)
        rows: list[int] = []
        end = 0
        for work in batch:
            end += len(work.tokens)
            rows += range(end - work.wanted, end)
        choices = self._decoder.logits(hidden[torch.tensor(rows, device=self._device)]).argmax(-1).tolist()
        results, start = [], 0
        for work in batch:
            results.append(choices[start : start + work.wanted])
            start += work.wanted
        return results
