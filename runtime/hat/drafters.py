"""What drafts on a HAT device, by what a folder holds: an adapter of the first layers, or Medusa heads on what comes back.

What does not live here: either's arithmetic (adapter.py, medusa.py) and how they draft (ends.py, medusa_ends.py).
"""

from __future__ import annotations

from pathlib import Path

from runtime.clock import Clock
from runtime.errors import CheckpointError
from runtime.hat import adapter, medusa
from runtime.hat.adapter import Adapter
from runtime.hat.ends import ModelEnds
from runtime.hat.medusa import MedusaHeads
from runtime.hat.medusa_ends import MedusaEnds
from runtime.hat.split_ends import EndCosts
from runtime.model.decoder import Decoder
from runtime.model.split import Split

Drafter = Adapter | MedusaHeads
"""Each has a fingerprint, weights, and the layers before the cut that it was made for."""


def load_drafter(path: str | Path, decoder: Decoder, model: str | None = None) -> Drafter:
    """Load what drafts; see :meth:`runtime.hat.adapter.Adapter.load` and :meth:`runtime.hat.medusa.MedusaHeads.load`.

    Raises:
        CheckpointError: it is missing, damaged, or of another model, split or size, or a folder holds both.
    """
    return (MedusaHeads if _of_heads(path) else Adapter).load(path, decoder, model)


def stated_first(path: str | Path) -> int:
    """Return the layers before the cut that a file of what drafts names; see :func:`load_drafter` for what is raised."""
    if _of_heads(path):
        return medusa.FORM.read(medusa.FORM.find(path))[0].first
    return adapter.FORM.read(adapter.FORM.find(path))[0].first


def ends_over(
    decoder: Decoder, split: Split, drafter: Drafter, clock: Clock, costs: EndCosts, eos_ids: frozenset[int]
) -> ModelEnds | MedusaEnds:
    """Return a session's ends, which draft with what is there."""
    if isinstance(drafter, MedusaHeads):
        return MedusaEnds(decoder, split, drafter, clock, costs)
    return ModelEnds(decoder, split, drafter, clock, costs, eos_ids)


def _of_heads(path: str | Path) -> bool:
    """Whether a path leads to Medusa heads; what leads to nothing is an adapter's to refuse."""
    try:
        file = medusa.FORM.find(path)
    except CheckpointError:
        return False
    if file == Path(path):
        return medusa.FORM.states(file)
    if (file.parent / adapter.FILE).is_file():
        raise CheckpointError(f"{path} holds both {adapter.FILE} and {medusa.FILE}, and one alone drafts; name the file")
    return True
