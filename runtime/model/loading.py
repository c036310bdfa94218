"""Decoders from Hugging Face folders: which tensors a config asks for, where they come from, and the folder's fingerprint.

What does not live here: the arithmetic (decoder.py), what config.json states (config.py) and tokenizers (tokenizer.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from runtime.errors import CheckpointError, UnsupportedModelError
from runtime.model.config import Stated, eos_beyond_config, read_config
from runtime.model.decoder import Decoder
from runtime.model.folder import model_file
from runtime.model.placement import Placement
from runtime.model.split import Split
from runtime.model.tokenizer import TOKENIZER, load_tokenizer, vocabulary_size

_STORED = ("F64", "F32", "F16", "BF16")
"""Types of weights; others need scales of their own."""


def load_decoder(
    folder: str | Path, placement: Placement = Placement(), *, layers: Sequence[int] | None = None, ends: bool = True
) -> Decoder:
    """Load a Hugging Face folder (config.json, *.safetensors, and the tokenizer that says how many tokens there are).

    Many models have more rows than their tokenizer has tokens, and models of one family not equally many. What has no
    token is never said, so that two models that share a tokenizer share a vocabulary.

    Args:
        folder: the model folder.
        placement: where it runs, and in which arithmetic; weights are converted to it.
        layers: numbers of the layers to load, rising; None is all. Nothing is read of the others.
        ends: load embedding, final norm and head, too.

    Raises:
        UnsupportedModelError: an architecture or feature that is not run here.
        CheckpointError: a missing, incomplete or unreadable folder, or weights that are not what its config says.
    """
    folder = Path(folder)
    stated = read_config(folder)
    device, dtype = placement.torch_device, placement.torch_dtype
    config = stated.config
    part = tuple(range(config.layers)) if layers is None else tuple(layers)
    wanted = _shapes(stated, part, ends=ends)
    weights = {name: t.to(device=device, dtype=dtype) for name, t in _read_weights(folder, stated, *wanted).items()}
    if (folder / TOKENIZER).is_file():
        vocab = min(config.vocab, vocabulary_size(load_tokenizer(folder)))
        config = replace(config, vocab=vocab, eos_ids=tuple(token for token in config.eos_ids if token < vocab))
    return Decoder(config, weights, stated.inv_freq, stated.rope_scale, part)


def load_ends(folder: str | Path, split: Split, placement: Placement = Placement()) -> Decoder:
    """Load the device's part of a split model; see :func:`load_decoder`.

    Raises:
        SettingError: the split leaves the cloud no layer.
        CheckpointError, UnsupportedModelError: see there.
    """
    layers = split.ends(read_config(Path(folder)).config.layers)
    return load_decoder(folder, placement, layers=layers)


def load_middle(folder: str | Path, split: Split, placement: Placement = Placement()) -> Decoder:
    """Load the cloud's part of a split model; see :func:`load_ends`."""
    layers = split.middle(read_config(Path(folder)).config.layers)
    return load_decoder(folder, placement, layers=layers, ends=False)


def _shapes(stated: Stated, layers: Sequence[int], *, ends: bool) -> tuple[dict[str, tuple[int, ...]], list[set[str]]]:
    """The shape of every tensor that a checkpoint may have; and groups of them, of which all are there or none."""
    c, mlp = stated.config, stated.intermediate
    query, key = c.heads * c.head_dim, c.kv_heads * c.head_dim
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (c.hidden,),
        "post_attention_layernorm.weight": (c.hidden,),
        "self_attn.q_norm.weight": (c.head_dim,),
        "self_attn.k_norm.weight": (c.head_dim,),
    }
    matrices = {
        "self_attn.q_proj": (query, c.hidden),
        "self_attn.k_proj": (key, c.hidden),
        "self_attn.v_proj": (key, c.hidden),
        "self_attn.o_proj": (c.hidden, query),
        "mlp.gate_proj": (mlp, c.hidden),
        "mlp.up_proj": (mlp, c.hidden),
        "mlp.down_proj": (c.hidden, mlp),
    }
    for name, shape in matrices.items():
        layer |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    together = [
        {f"self_attn.{part}_proj.bias" for part in "qkv"},
        {f"mlp.{part}_proj.bias" for part in ("gate", "up")},
        {"self_attn.q_norm.weight", "self_attn.k_norm.weight"},
    ]
    prefixes = [f"model.layers.{i}." for i in layers]
    shapes = {prefix + name: shape for prefix in prefixes for name, shape in layer.items()}
    if ends:
        shapes |= {"model.embed_tokens.weight": (c.vocab, c.hidden), "model.norm.weight": (c.hidden,)}
        shapes["lm_head.weight"] = (c.vocab, c.hidden)
    return shapes, [{prefix + name for name in group} for prefix in prefixes for group in together]


def _is_required(name: str, stated: Stated) -> bool:
    """Whether a tensor must be there, by the config; biases, norms of heads and a head of its own may also be there."""
    architecture = stated.config.architecture
    if name == "lm_head.weight":
        return not stated.tied
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return architecture == "Qwen3ForCausalLM"
    if not name.endswith(".bias"):
        return True
    if ".mlp." in name:
        return stated.mlp_bias
    return stated.attention_bias or (architecture == "Qwen2ForCausalLM" and "o_proj" not in name)


def _read_weights(
    folder: Path, stated: Stated, shapes: dict[str, tuple[int, ...]], together: list[set[str]]
) -> dict[str, Tensor]:
    """Read the tensors that the config asks for, each held against its shape before it is read; see :func:`_shapes`."""
    # Some folders also hold the same weights in another form (consolidated.safetensors).
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"no *.safetensors in {folder}; convert the checkpoint with save_pretrained(..., safe_serialization=True)"
        )
    weights: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in shapes.keys() & set(opened.keys()):
                    part = opened.get_slice(name)
                    _require_stored(file, name, tuple(part.get_shape()), shapes[name], part.get_dtype())
                    weights[name] = opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} cannot be read: {error}") from None
    wanted = [name for name in shapes if _is_required(name, stated)]
    wanted += [name for group in together if group & weights.keys() for name in sorted(group)]
    if missing := next((name for name in wanted if name not in weights), None):
        raise CheckpointError(f"the weights in {folder} lack the tensor {missing!r}; the download may be incomplete")
    return weights


def _require_stored(file: Path, name: str, found: tuple[int, ...], wanted: tuple[int, ...], dtype: str) -> None:
    if found != wanted:
        raise CheckpointError(f"{file}: {name} has shape {list(found)}, but config.json asks for {list(wanted)}")
    if dtype not in _STORED:
        raise UnsupportedModelError(f"{file}: {name} is stored as {dtype}; only {', '.join(_STORED)} are read here")


def fingerprint(folder: str | Path) -> str:
    """Return a short hash that changes when the config or any weight of a model folder changes, or where answers end.

    Raises:
        CheckpointError: the folder or its config is missing.
    """
    digest = hashlib.sha256()
    for file in [model_file(folder, "config.json"), *sorted(Path(folder).glob("*.safetensors"))]:
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    if beyond := eos_beyond_config(folder):
        digest.update(repr(sorted(beyond)).encode())
    return digest.hexdigest()[:16]
