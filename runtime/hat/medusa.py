"""Medusa heads: small residual blocks that say, from a model's last state, the tokens after the next one, by the model's own head.

What lives here: their arithmetic, their file, and what the file states (Medusa-1, arXiv 2401.10774, but with one output head for all,
and with the likeliest token of each head as a chain: what travels are chains, so there is no tree). What does not: drafting
(medusa_ends.py), and their training (traces/hat/train_medusa.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch
from pydantic import ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from runtime.errors import CheckpointError
from runtime.hat.drafter_file import Count, Fingerprint, Form
from runtime.hat.knobs import MAX_DRAFT_LENGTH
from runtime.model.decoder import Decoder
from runtime.model.layer import Linear

FILE = "medusa.safetensors"
"""Its name in a folder."""
FORMAT = 1
"""Version of the file; another one is refused."""
_WAY_OUT = "train some with: synera train-adapter --drafter medusa"


@dataclass(frozen=True)
class MedusaStated:
    """What a file of heads states of itself."""

    __pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)

    format: int
    """See :data:`FORMAT`."""
    model: Fingerprint
    """That they were trained on."""
    first: Annotated[int, Field(ge=0, le=1024)]
    """Layers that a device has before the cut unless it is told otherwise; the heads read what comes back, so any cut serves."""
    hidden: Count
    heads: Annotated[int, Field(ge=1, le=MAX_DRAFT_LENGTH)]
    training: dict[str, str | int | float] = field(default_factory=dict)
    """Notes of how they were trained, for whoever reads them."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of the file, by name."""
        weights = {f"heads.{head}.weight": (self.hidden, self.hidden) for head in range(self.heads)}
        return weights | {f"heads.{head}.bias": (self.hidden,) for head in range(self.heads)}

    def metadata(self) -> dict[str, str]:
        """Return what a safetensors file holds beside its tensors."""
        return FORM.metadata(self)


FORM = Form("Medusa heads", "a set of Medusa heads", FILE, "medusa", FORMAT, MedusaStated, _WAY_OUT)
"""Of their file."""


class MedusaHeads:
    """Head j, from 0, makes x + silu(W_j x + b_j) of a normed last state x: the model's output head then says the token j + 2 further on."""

    def __init__(self, stated: MedusaStated, weights: Mapping[str, Tensor], fingerprint: str = "") -> None:
        """Lay the weights out.

        Args:
            stated: sizes.
            weights: by the names of :attr:`MedusaStated.shapes`.
            fingerprint: of the file that they come from.
        """
        self.stated, self.fingerprint = stated, fingerprint
        heads = range(stated.heads)
        bias = torch.cat([weights[f"heads.{head}.bias"] for head in heads])
        self._blocks = Linear.laid_out(torch.cat([weights[f"heads.{head}.weight"] for head in heads]), bias)
        self.cached_bytes = 0
        """Bytes that they keep for a token."""

    @classmethod
    def load(cls, path: str | Path, decoder: Decoder, model: str | None = None) -> MedusaHeads:
        """Load the heads of a decoder, onto its device and in its type.

        Args:
            path: the file, or a folder that holds it as `medusa.safetensors`.
            decoder: the whole model, or a part of it that has the output head.
            model: the fingerprint of the decoder's folder; None where it is not known, so that sizes alone are compared.

        Raises:
            CheckpointError: it is missing, damaged, of another format, model or size.
        """
        file = FORM.find(path)
        stated, weights, digest = FORM.read(file)
        if stated.hidden != decoder.config.hidden:
            raise CheckpointError(
                f"{file} is of another model: its hidden is {stated.hidden}, the model's {decoder.config.hidden}; {_WAY_OUT}"
            )
        FORM.require_model(file, stated.model, model)
        return cls(stated, {name: t.to(decoder.device, decoder.dtype) for name, t in weights.items()}, digest)

    @property
    def heads(self) -> int:
        """How many: the longest draft."""
        return self.stated.heads

    @property
    def first(self) -> int:
        """Layers before the cut unless a device is told otherwise."""
        return self.stated.first

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights."""
        weight = self._blocks.weight
        return (weight.numel() + self.heads * self.stated.hidden) * weight.element_size()

    @torch.inference_mode()
    def logits(self, decoder: Decoder, states: Tensor) -> Tensor:
        """What each head says after states.

        Args:
            decoder: has the final norm and the output head.
            states: after all layers, before the final norm, [rows, hidden].

        Returns:
            [rows, heads, vocab].
        """
        normed = decoder.ends.norm(states)
        blocks = F.silu(self._blocks(normed)).view(len(states), self.heads, -1)
        return F.linear(blocks + normed[:, None], decoder.ends.head)[..., : decoder.config.vocab]
