"""What a model folder states of its model: config.json and generation_config.json, every figure in its range.

A config that states every figure is taken as it stands. Else transformers, whose import takes seconds, fills in what its
architecture has for defaults and works out scaled rotary tables; only what is named here reaches it.
What does not live here: weights (loading.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict  # pydantic asks for this one before Python 3.12

from runtime.errors import CheckpointError, UnsupportedModelError
from runtime.model.decoder import ModelConfig
from runtime.model.folder import model_file, read_small
from runtime.settings import first_finding, shown

SUPPORTED = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
"""The `model_type` that goes with each architecture."""
_FIGURES = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("max_position_embeddings", "rms_norm_eps", "tie_word_embeddings"),
)
"""What a config must state, and not as null, to be taken as it stands; of all the rest the default is that there is none."""
_MAY_BE_NULL = {
    "llama": ("eos_token_id",),
    "mistral": ("eos_token_id", "sliding_window"),
    "qwen2": ("eos_token_id",),
    "qwen3": ("eos_token_id",),
}
"""What it must state, too, be it as null."""
LONGEST_CONTEXT = 2**20
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # those whose frequencies do not change with the length
_KNOWN_ONLY = ConfigDict(extra="ignore", allow_inf_nan=False)

_Tokens = Annotated[int, Field(ge=1, le=LONGEST_CONTEXT)]
_Token = Annotated[int, Field(ge=0, lt=2**22)]
_Heads = Annotated[int, Field(ge=1, le=1024)]
_Factor = Annotated[float, Field(gt=0, le=1e6)]
_Theta = Annotated[float, Field(ge=1, le=1e12)]
_Eos = _Token | list[_Token] | None


class _Rope(TypedDict, total=False):
    """Rotary embedding, as written since transformers 5 (`rope_parameters`) and before (`rope_scaling`)."""

    __pydantic_config__ = _KNOWN_ONLY  # type: ignore[misc]

    rope_type: str
    type: str
    rope_theta: _Theta
    factor: _Factor
    low_freq_factor: _Factor
    high_freq_factor: _Factor
    original_max_position_embeddings: Annotated[int, Field(ge=1, le=2**30)]
    attention_factor: _Factor | None
    beta_fast: _Factor | None
    beta_slow: _Factor | None
    mscale: _Factor | None
    mscale_all_dim: _Factor | None
    truncate: bool
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)]


class _Config(TypedDict, total=False):
    """What is read of config.json; what is absent is the architecture's default."""

    __pydantic_config__ = _KNOWN_ONLY  # type: ignore[misc]

    vocab_size: Annotated[int, Field(ge=1, le=2**22)]
    hidden_size: Annotated[int, Field(ge=1, le=2**17)]
    intermediate_size: Annotated[int, Field(ge=1, le=2**20)]
    num_hidden_layers: Annotated[int, Field(ge=1, le=1024)]
    num_attention_heads: _Heads
    num_key_value_heads: _Heads | None
    head_dim: Annotated[int, Field(ge=2, le=1024, multiple_of=2)] | None
    hidden_act: str
    max_position_embeddings: _Tokens
    rms_norm_eps: Annotated[float, Field(gt=0, le=1)]
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    sliding_window: Annotated[int, Field(ge=1, le=2**30)] | None
    use_sliding_window: bool
    max_window_layers: Annotated[int, Field(ge=0, le=2**30)]
    layer_types: Annotated[list[Literal["full_attention", "sliding_attention"]], Field(max_length=1024)] | None
    rope_parameters: _Rope | None
    rope_scaling: _Rope | None
    rope_theta: _Theta
    partial_rotary_factor: Annotated[float, Field(gt=0, le=1)]
    eos_token_id: _Eos


class _Kind(TypedDict, total=False):
    """What config.json says of the kind of model, and this project's own entry."""

    __pydantic_config__ = _KNOWN_ONLY  # type: ignore[misc]

    architectures: list[str] | None
    model_type: str
    exit_layers: list[int] | None


class _GenerationConfig(TypedDict, total=False):
    """What is read of generation_config.json."""

    __pydantic_config__ = _KNOWN_ONLY  # type: ignore[misc]

    eos_token_id: _Eos


@dataclass(frozen=True)
class Stated:
    """What a model folder states: all that is needed to run its weights."""

    config: ModelConfig
    intermediate: int
    attention_bias: bool
    mlp_bias: bool
    tied: bool
    """The head is the embedding, unless the weights have one of its own."""
    inv_freq: Tensor
    """Rotary frequencies, float32 [head_dim / 2]."""
    rope_scale: float


def read_config(folder: Path) -> Stated:
    """Read what a model folder states.

    Raises:
        UnsupportedModelError: an architecture or feature that is not run here.
        CheckpointError: a file that is missing, damaged, or states a figure that makes no sense.
    """
    path = model_file(folder, "config.json")
    content = read_small(path)
    kind = _parsed(content, _Kind, path)
    architecture = (kind.get("architectures") or ["none named"])[0]
    if architecture not in SUPPORTED:
        raise UnsupportedModelError(
            f"{folder} holds a {shown(architecture)[1:-1]}; the supported architectures are {', '.join(SUPPORTED)}"
        )
    if kind.get("model_type", SUPPORTED[architecture]) != SUPPORTED[architecture]:
        raise CheckpointError(f"{path}: model_type={shown(kind['model_type'])} does not go with {architecture}")
    model_type, stated = SUPPORTED[architecture], _parsed(content, _Config, path)
    c = _as_stated(model_type, stated) or _with_defaults(model_type, stated, path)
    if getattr(c, "hidden_act", "silu") != "silu":
        raise UnsupportedModelError(f"{folder} uses the activation {shown(c.hidden_act)}; only 'silu' is run here")
    heads = c.num_attention_heads
    kv_heads = getattr(c, "num_key_value_heads", None) or heads
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // heads
    if heads % kv_heads:
        raise CheckpointError(f"{path}: num_key_value_heads={kv_heads} must divide num_attention_heads={heads}")
    if not 2 <= head_dim <= 1024 or head_dim % 2:
        raise CheckpointError(f"{path}: head_dim={head_dim} (hidden_size / num_attention_heads) must be even, in 2..1024")
    config = ModelConfig(
        architecture=architecture,
        vocab=c.vocab_size,
        hidden=c.hidden_size,
        layers=c.num_hidden_layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        norm_eps=c.rms_norm_eps,
        context=c.max_position_embeddings,
        windows=_windows(c, path),
        exit_layers=_exit_layers(kind.get("exit_layers"), c.num_hidden_layers, path),
        eos_ids=_eos_ids(c.eos_token_id, folder, c.vocab_size),
    )
    biased = bool(getattr(c, "attention_bias", False)), bool(getattr(c, "mlp_bias", False))
    return Stated(config, c.intermediate_size, *biased, bool(c.tie_word_embeddings), *_rope(c, head_dim, folder))


def eos_beyond_config(folder: str | Path) -> list[int]:
    """Return the ends of an answer that generation_config.json adds to those of config.json.

    Raises:
        CheckpointError: a file is missing or damaged.
    """
    path = model_file(folder, "config.json")
    known = _listed(_parsed(read_small(path), _GenerationConfig, path).get("eos_token_id"))
    return [token for token in _generation_eos(Path(folder)) if token not in known]


def _parsed(content: bytes, kind: type[Any], path: Path) -> Any:
    try:
        return TypeAdapter(kind).validate_json(content, strict=True)
    except ValidationError as error:
        raise CheckpointError(f"{path} is not a usable config: {first_finding(error)}") from None


def _as_stated(model_type: str, stated: dict[str, Any]) -> Any:
    """What transformers would make of a config that leaves nothing to it; None for another."""
    figures = (*_FIGURES, "head_dim") if model_type == "qwen3" else _FIGURES
    if any(stated.get(name) is None for name in figures) or any(name not in stated for name in _MAY_BE_NULL[model_type]):
        return None
    rope = stated.get("rope_scaling") or stated.get("rope_parameters") or {}
    theta = rope.get("rope_theta", stated.get("rope_theta"))
    scaled = rope.get("rope_type", rope.get("type", "default")) != "default"
    partial = "partial_rotary_factor" in rope or "partial_rotary_factor" in stated
    if theta is None or scaled or partial or stated["hidden_size"] % stated["num_attention_heads"]:
        return None
    by_layer = model_type in ("qwen2", "qwen3")
    if by_layer and stated.get("use_sliding_window"):
        return None
    windows: dict[str, Any] = {"sliding_window": None} if by_layer else {}
    return SimpleNamespace(**(stated | windows | {"rope_parameters": {"rope_theta": theta}}))


def _with_defaults(model_type: str, stated: dict[str, Any], path: Path) -> Any:
    """Have transformers fill in the defaults of an architecture."""
    from transformers import AutoConfig

    try:
        return AutoConfig.for_model(model_type, **stated)
    except Exception as error:  # the library's own checks raise whatever they meet
        raise CheckpointError(f"{path} is not a usable config: {' '.join(str(error).split())[:300]}") from None


def _windows(c: Any, path: Path) -> tuple[int | None, ...]:
    """The sliding window of each layer."""
    window = getattr(c, "sliding_window", None)
    kinds = getattr(c, "layer_types", None) or ["sliding_attention" if window else "full_attention"] * c.num_hidden_layers
    if len(kinds) != c.num_hidden_layers:
        raise CheckpointError(f"{path}: layer_types names {len(kinds)} layers, but the model has {c.num_hidden_layers}")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _exit_layers(stated: Sequence[int] | None, layers: int, path: Path) -> tuple[int, ...]:
    exits = (layers,) if stated is None else tuple(stated)
    if not exits or list(exits) != sorted(set(exits)) or exits[0] < 1 or exits[-1] != layers:
        raise CheckpointError(
            f"{path}: exit_layers={shown(list(exits))} must rise from at least 1 and end with the last layer, {layers}"
        )
    return exits


def _listed(eos: _Eos) -> list[int]:
    return [] if eos is None else [eos] if isinstance(eos, int) else eos


def _generation_eos(folder: Path) -> list[int]:
    path = folder / "generation_config.json"
    return _listed(_parsed(read_small(path), _GenerationConfig, path).get("eos_token_id")) if path.is_file() else []


def _eos_ids(stated: _Eos, folder: Path, vocab: int) -> tuple[int, ...]:
    """Every token that ends an answer, by either file."""
    named = {"config.json": _listed(stated), "generation_config.json": _generation_eos(folder)}
    for name, tokens in named.items():
        if outside := [token for token in tokens if not 0 <= token < vocab]:
            raise CheckpointError(f"{folder / name}: eos_token_id={outside[0]} is outside the vocabulary of {vocab} tokens")
    return tuple(dict.fromkeys(token for tokens in named.values() for token in tokens))


def _rope(c: Any, head_dim: int, folder: Path) -> tuple[Tensor, float]:
    """Rotary frequencies [head_dim / 2] and attention scale; scaled ones by transformers' own tables."""
    parameters = getattr(c, "rope_parameters", None) or {}
    kind = parameters.get("rope_type", "default")
    if kind not in _ROPE_TYPES:
        raise UnsupportedModelError(f"{folder} uses the rotary embedding {shown(kind)}; supported are {', '.join(_ROPE_TYPES)}")
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedModelError(f"{folder} turns only a part of each head (partial_rotary_factor); that is not run here")
    if kind == "default":
        theta = parameters.get("rope_theta", getattr(c, "rope_theta", 10000.0))
        return 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim), 1.0
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    try:
        inv_freq, scale = ROPE_INIT_FUNCTIONS[kind](c, "cpu")
    except Exception as error:  # what is missing or senseless shows in the midst of its formulas
        raise CheckpointError(f"{folder}: the rotary embedding {kind!r} cannot be worked out: {shown(error)}") from None
    if inv_freq.shape != (head_dim // 2,) or not inv_freq.isfinite().all() or not 0 < float(scale) < 1e6:
        raise CheckpointError(f"{folder}: the rotary embedding {kind!r} has factors that make no sense: {shown(parameters)}")
    return inv_freq, float(scale)
