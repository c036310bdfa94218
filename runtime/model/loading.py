"""Decoders from Hugging Face folders: which architectures, how a config is read, where the tensors come from.

What does not live here: the arithmetic (decoder.py) and tokenizers (tokenizer.py).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from runtime.errors import CheckpointError, UnsupportedModelError
from runtime.model.decoder import Decoder, ModelConfig
from runtime.model.placement import Placement

SUPPORTED = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # those whose frequencies do not change with the length


def load_decoder(folder: str | Path, placement: Placement = Placement()) -> Decoder:
    """Load a Hugging Face folder (config.json, *.safetensors).

    Args:
        folder: the model folder.
        placement: where it runs, and in which arithmetic; weights are converted to it.

    Raises:
        UnsupportedModelError: an architecture or feature that is not run here.
        CheckpointError: a missing, incomplete or unreadable folder.
    """
    folder = Path(folder)
    config, raw = _read_config(folder)
    inv_freq, scale = _rope(raw, folder)
    device, dtype = placement.torch_device, placement.torch_dtype
    weights = {name: t.to(device=device, dtype=dtype) for name, t in _read_weights(folder).items()}
    try:
        if absent := [name for name in _stated_extras(config, raw) if name not in weights]:
            raise KeyError(absent[0])
        return Decoder(config, weights, inv_freq, scale)
    except KeyError as missing:
        raise CheckpointError(f"the weights in {folder} lack the tensor {missing}; the download may be incomplete") from None


def _stated_extras(config: ModelConfig, raw: object) -> list[str]:
    """Tensors that not every checkpoint has, but this one must, by its config."""
    attention_bias, mlp_bias = getattr(raw, "attention_bias", False), getattr(raw, "mlp_bias", False)
    names = []
    if attention_bias or config.architecture == "Qwen2ForCausalLM":
        names += [f"self_attn.{part}_proj.bias" for part in "qkv"]
    if attention_bias:
        names.append("self_attn.o_proj.bias")
    if mlp_bias:
        names += [f"mlp.{part}_proj.bias" for part in ("gate", "up", "down")]
    if config.architecture == "Qwen3ForCausalLM":
        names += ["self_attn.q_norm.weight", "self_attn.k_norm.weight"]
    extras = [f"model.layers.{layer}.{name}" for layer in range(config.layers) for name in names]
    return extras if getattr(raw, "tie_word_embeddings", False) else [*extras, "lm_head.weight"]


def _read_config(folder: Path) -> tuple[ModelConfig, object]:
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"no model at {folder}: it has no config.json; give a Hugging Face folder (config.json, *.safetensors, tokenizer.json)"
        )
    try:
        stated = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON ({error})") from None
    architecture = (stated.get("architectures") or ["none named"])[0]
    if architecture not in SUPPORTED:
        raise UnsupportedModelError(f"{folder} holds a {architecture}; the supported architectures are {', '.join(SUPPORTED)}")
    from transformers import AutoConfig

    try:
        c = AutoConfig.from_pretrained(folder)
    except (ValueError, OSError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path} is not a usable config: {error}") from None
    if getattr(c, "hidden_act", "silu") != "silu":
        raise UnsupportedModelError(f"{folder} uses the activation {c.hidden_act!r}; only 'silu' is run here")
    layers = c.num_hidden_layers
    exits = tuple(stated.get("exit_layers") or (layers,))
    if list(exits) != sorted(set(exits)) or exits[0] < 1 or exits[-1] != layers:
        raise CheckpointError(
            f"{path}: exit_layers={list(exits)} must rise from at least 1 and end with the last layer, {layers}"
        )
    eos = c.eos_token_id
    window = getattr(c, "sliding_window", None)
    kinds = getattr(c, "layer_types", None) or ["sliding_attention" if window else "full_attention"] * layers
    return ModelConfig(
        architecture=architecture,
        vocab=c.vocab_size,
        hidden=c.hidden_size,
        layers=layers,
        heads=c.num_attention_heads,
        kv_heads=getattr(c, "num_key_value_heads", None) or c.num_attention_heads,
        head_dim=getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads,
        norm_eps=c.rms_norm_eps,
        context=c.max_position_embeddings,
        windows=tuple(window if kind == "sliding_attention" else None for kind in kinds),
        exit_layers=exits,
        eos_ids=tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,),
    ), c


def _rope(config: object, folder: Path) -> tuple[Tensor, float]:
    """Rotary frequencies [head_dim / 2] and attention scale, by transformers' own tables."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = getattr(config, "rope_parameters", None) or {}
    kind = parameters.get("rope_type", "default")
    if kind not in _ROPE_TYPES:
        raise UnsupportedModelError(f"{folder} uses the rotary embedding {kind!r}; supported are {', '.join(_ROPE_TYPES)}")
    if kind != "default":
        inv_freq, scale = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
        return inv_freq, float(scale)
    theta = parameters.get("rope_theta", getattr(config, "rope_theta", 10000.0))
    hidden, heads = config.hidden_size, config.num_attention_heads  # type: ignore[attr-defined]
    dim = getattr(config, "head_dim", None) or hidden // heads
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim), 1.0


def _read_weights(folder: Path) -> dict[str, Tensor]:
    # Some folders also hold the same weights in another form (consolidated.safetensors).
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"no *.safetensors in {folder}; convert the checkpoint with save_pretrained(..., safe_serialization=True)"
        )
    weights = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                weights.update({name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from None
    return weights


def fingerprint(folder: str | Path) -> str:
    """Return a short hash that changes when the config or any weight of a model folder changes."""
    digest = hashlib.sha256()
    for file in [Path(folder) / "config.json", *sorted(Path(folder).glob("*.safetensors"))]:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:16]
