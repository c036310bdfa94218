"""Random adapters and Medusa heads of tiny models, as the training module and as its file."""

from __future__ import annotations

from pathlib import Path

import torch

from runtime.hat.adapter import FILE, Stated
from runtime.hat.medusa import FORMAT, MedusaStated
from runtime.model.decoder import Decoder
from traces.hat.train_adapter import AdapterModule, save_adapter
from traces.hat.train_medusa import MedusaModule


def random_module(decoder: Decoder, model: str, first: int, seed: int = 3) -> AdapterModule:
    """An adapter in training whose every weight matters."""
    module = AdapterModule(Stated.of(decoder.config, model, first, {"steps": 3}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.3 * noise if "norm" in name else 0.25 * noise)
    return module


def save_module(module: AdapterModule, folder: Path) -> Path:
    """Write its file into a folder; return the file."""
    save_adapter(module, module.stated, folder / FILE)
    return folder / FILE


def random_heads(decoder: Decoder, model: str, first: int, heads: int, seed: int = 3) -> MedusaModule:
    """Medusa heads in training whose every weight matters."""
    module = MedusaModule(MedusaStated(FORMAT, model, first, decoder.config.hidden, heads, {"steps": 3}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
    return module
