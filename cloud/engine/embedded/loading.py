"""Makes an embedded engine of a config: loads the model, or the middle of it, and chooses how much room its keys and values get.

What does not live here: checkpoints (runtime/model/loading.py) and the engines (engine.py, middle.py).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from cloud.engine.base import Engine, EngineInfo, MiddleInfo
from cloud.engine.embedded.engine import EmbeddedEngine
from cloud.engine.embedded.forward import MiddleForward, TorchForward, Work
from cloud.engine.embedded.kv_pool import blocks_for
from cloud.engine.embedded.middle import MiddleEngine
from runtime.model.decoder import Decoder
from runtime.model.loading import fingerprint, load_decoder, load_middle

if TYPE_CHECKING:
    from cloud.config import ServerConfig

_USUAL_SEQUENCES = 64


def load(config: ServerConfig) -> Engine:
    """Load the model folder of a config; `config.threads` holds for the whole process.

    Raises:
        CheckpointError: it is missing, incomplete, or not a supported model.
        PlacementError: the machine has no such device.
        SettingError: the split leaves no layer of it.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    options: dict[str, Any] = {
        "policy": config.policy,
        "token_budget": config.token_budget,
        "shares_prefixes": config.shares_prefixes,
        "pace": config.pace,
        "pace_seed": config.pace_seed,
    }
    # What is compiled at its first use is not to keep a device waiting, hence a first forward here.
    if config.split is None:
        decoder = load_decoder(config.model, config.placement)
        whole = TorchForward(decoder, blocks_for(config.kv_tokens or _usual_kv_tokens(decoder)))
        whole.run([Work([0], 0, [0, 0], 1)])
        return EmbeddedEngine(_info(config, decoder), whole, **options)
    decoder = load_middle(config.model, config.split, config.placement)
    middle = MiddleForward(decoder, blocks_for(config.kv_tokens or _usual_kv_tokens(decoder)))
    middle.run([Work([0], 0, torch.zeros(2, decoder.config.hidden), 1)])
    return MiddleEngine(_info(config, decoder), middle, **options)


def _info(config: ServerConfig, decoder: Decoder) -> EngineInfo:
    c, split = decoder.config, config.split
    return EngineInfo(
        engine="torch",
        model=config.model.resolve().name,
        architecture=c.architecture,
        fingerprint=fingerprint(config.model),
        vocab=c.vocab,
        context_tokens=c.context,
        eos_ids=c.eos_ids,
        placement=str(config.placement),
        middle=None if split is None else MiddleInfo(split.first, split.last, c.hidden, config.max_chunk_rows),
    )


def _usual_kv_tokens(decoder: Decoder) -> int:
    """As many as 64 sequences of full length have, but no more than a quarter of the memory that is there holds."""
    device, context = decoder.device, decoder.config.context
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(context, min(_USUAL_SEQUENCES * context, free // 4 // decoder.cached_bytes))
