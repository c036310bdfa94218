"""Batches of prompts recorded as tasks of Ray: each process loads the pair once, and sends its graphs back.

What does not live here: the recording (traces/synera/record.py), and Ray itself (_scale.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch

from runtime.model.frame import Frame
from runtime.model.placement import Placement
from runtime.synera.lens import Lens
from scripts._scale import in_order, spread
from traces.synera.record import Batches, Ending, expanded
from traces.synera.record_models import Models
from traces.tasks.splits import Prompt


@dataclass(frozen=True)
class Elsewhere:
    """Records batches on Ray; a :data:`traces.synera.record.Expand`."""

    slm: Path
    llm: Path
    """Folders, the same on every machine."""
    placement: Placement
    """Of both; with CUDA a task has a GPU of its own."""
    frame: Frame
    max_new_tokens: int
    node_budget: int
    ray: str
    """As :func:`scripts._scale.connected` takes it."""

    def __call__(self, lens: Lens, batches: Batches) -> Iterator[list[Ending]]:
        """Yield the graphs of each batch, in order.

        Raises:
            SyneraError: a machine cannot load the models, or was lost.
        """
        gpus = int(self.placement.device.startswith("cuda"))
        return in_order(spread(partial(_recorded, self, lens), batches, ray=self.ray, fresh=False, gpus=gpus))


def _recorded(there: Elsewhere, lens: Lens, prompts: Sequence[Prompt]) -> list[Ending]:
    torch.set_num_threads(1)
    models = _models(there.slm, there.llm, there.placement, there.frame)
    return expanded(models, there.max_new_tokens, there.node_budget, lens, prompts)


@cache
def _models(slm: Path, llm: Path, placement: Placement, frame: Frame) -> Models:
    return Models.load(slm, llm, placement, frame)
