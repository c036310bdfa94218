"""Tiny random checkpoints of every supported architecture, and a drafter's surroundings, for the tests beside this file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from runtime.model.exits import Segment
from runtime.synera.knobs import MAX_DRAFT_LENGTH
from runtime.synera.lens import CLUES, SKETCH_SIZE, Lens

VOCAB = 61
_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
}


def save_checkpoint(folder: Path, kind: str, *, shard: str = "1GB", exits: Sequence[int] | None = None, **changes: Any) -> Any:
    """Write a random `kind` (Llama, Mistral, Qwen2, Qwen3) checkpoint and return the transformers model."""
    config = getattr(transformers, f"{kind}Config")(**(_SIZES | changes))
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Large enough that attention is far from uniform and that a dropped bias or norm weight shows.
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if "norm" in name else 0.25 * noise)
    if exits is not None:
        model.config.exit_layers = list(exits)
    model.save_pretrained(folder, max_shard_size=shard)
    return model


def save_config(folder: Path, kind: str) -> None:
    """Write the config.json of such a checkpoint alone."""
    config = getattr(transformers, f"{kind}Config")(**_SIZES)
    config.architectures = [f"{kind}ForCausalLM"]
    config.save_pretrained(folder)


def random_ids(count: int, seed: int = 0) -> torch.Tensor:
    """Token ids [count]."""
    return torch.randint(0, VOCAB, (count,), generator=torch.Generator().manual_seed(seed))


def random_lens(exits: int, hidden: int, seed: int = 0) -> Lens:
    """A lens with random directions and weights, and evenly spread importance."""
    rng = np.random.default_rng(seed)
    return Lens(
        mean=rng.normal(size=(exits, hidden)).astype(np.float32),
        directions=0.3 * rng.normal(size=(exits, SKETCH_SIZE, hidden)).astype(np.float32),
        rejection=(rng.normal(size=(exits, CLUES)) / 4).astype(np.float32),
        importance=np.tile(np.linspace(0, 1, 101, dtype=np.float32), (MAX_DRAFT_LENGTH + 1, 1)),
    )


class LayerCosts:
    """Charges a second for each layer of each position and 100 for each head, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[tuple[Segment, ...], int]] = []

    def draft_seconds(self, segments: Sequence[Segment], heads: int) -> float:
        self.asked.append((tuple(segments), heads))
        return float(sum(s.layers * s.positions for s in segments) + 100 * heads)
