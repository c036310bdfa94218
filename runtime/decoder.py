"""One compact decoder that can be entered and left at any layer, loaded from Hugging Face checkpoints.

What lives here: weights, `embed`, layers start..stop, `logits`. What does not: caches (kv.py), exits (exits.py),
sampling, tokenizers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from runtime.errors import CheckpointError, ContextOverflowError, UnsupportedModelError
from runtime.kv import KVCache, KVShape

SUPPORTED = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # those whose frequencies do not change with the length


@dataclass(frozen=True)
class ModelConfig:
    """What the decoder needs to know of a checkpoint."""

    architecture: str
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    norm_eps: float
    context: int
    """Longest sequence, in tokens."""
    windows: tuple[int | None, ...]
    """Sliding-window length of each layer; None sees everything."""
    exit_layers: tuple[int, ...]
    """Layers after which the shared norm and head give usable predictions; ends with the last layer."""
    eos_ids: tuple[int, ...]

    @property
    def kv_shape(self) -> KVShape:
        """Sizes of a cache for this model."""
        return KVShape(self.layers, self.kv_heads, self.head_dim)


@dataclass(frozen=True)
class _Layer:
    norm_in: Tensor
    norm_mlp: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None
    q_norm: Tensor | None
    k_norm: Tensor | None


class Decoder:
    """A Llama-like decoder over flat rows: no batch axis, a row is one position of some sequence of the cache.

    All methods run without gradients. Rows never mix except through the cache, so a forward over many sequences is a
    forward over their concatenated rows.
    """

    def __init__(self, config: ModelConfig, weights: dict[str, Tensor], inv_freq: Tensor, rope_scale: float) -> None:
        self.config = config
        self._embedding = weights["model.embed_tokens.weight"]
        self._norm = weights["model.norm.weight"]
        self._head = weights.get("lm_head.weight", self._embedding)
        self._layers = [_layer(weights, f"model.layers.{i}.") for i in range(config.layers)]
        angles = torch.arange(config.context, dtype=torch.float32)[:, None] * inv_freq.float()[None]
        angles = torch.cat([angles, angles], -1)
        self._cos = (angles.cos() * rope_scale).to(self._norm)  # [context, head_dim]
        self._sin = (angles.sin() * rope_scale).to(self._norm)

    @classmethod
    def load(cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Decoder:
        """Load a Hugging Face folder (config.json, *.safetensors).

        Args:
            folder: the model folder.
            dtype: arithmetic type; weights are converted to it. float32 makes results independent of the batch to
                about 1e-6.
            device: torch device.

        Raises:
            UnsupportedModelError: an architecture or feature that is not run here.
            CheckpointError: a missing, incomplete or unreadable folder.
        """
        folder = Path(folder)
        config, raw = _read_config(folder)
        inv_freq, scale = _rope(raw, folder)
        weights = {name: t.to(device=device, dtype=dtype) for name, t in _read_weights(folder).items()}
        try:
            if absent := [name for name in _stated_extras(config, raw) if name not in weights]:
                raise KeyError(absent[0])
            return cls(config, weights, inv_freq, scale)
        except KeyError as missing:
            raise CheckpointError(
                f"the weights in {folder} lack the tensor {missing}; the download may be incomplete"
            ) from None

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of all weights, once each."""
        tensors = {id(t): t for layer in self._layers for t in vars(layer).values() if t is not None}
        tensors |= {id(t): t for t in (self._embedding, self._head, self._norm)}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    @torch.inference_mode()
    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [rows] to hidden states [rows, hidden]."""
        return F.embedding(ids, self._embedding)

    @torch.inference_mode()
    def run(self, hidden: Tensor, positions: Tensor, kv: KVCache, start: int = 0, stop: int | None = None) -> Tensor:
        """Run layers start..stop (stop not included).

        Args:
            hidden: [rows, hidden], the output of layer start - 1 (or of `embed`).
            positions: int64 [rows], the place of each row in its sequence.
            kv: where the layers' keys and values are appended and attended.
            start: first layer.
            stop: one past the last layer; None is all.

        Returns:
            [rows, hidden].

        Raises:
            ContextOverflowError: a position at or past the context length.
        """
        if int(positions.max()) >= self.config.context:
            raise ContextOverflowError(
                f"position {int(positions.max())} is past the model's context of {self.config.context} tokens; shorten the prompt"
            )
        cos, sin = self._cos[positions][:, None], self._sin[positions][:, None]  # [rows, 1, head_dim]
        for index in range(start, self.config.layers if stop is None else stop):
            hidden = self._run_layer(index, hidden, cos, sin, kv)
        return hidden

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Final norm and head: [rows, hidden] to [rows, vocab]; valid at any exit, as all share them."""
        return F.linear(F.rms_norm(hidden, self._norm.shape, self._norm, self.config.norm_eps), self._head)

    def _run_layer(self, index: int, x: Tensor, cos: Tensor, sin: Tensor, kv: KVCache) -> Tensor:
        c, layer, rows = self.config, self._layers[index], x.shape[0]
        normed = F.rms_norm(x, layer.norm_in.shape, layer.norm_in, c.norm_eps)
        qkv = F.linear(normed, layer.qkv, layer.qkv_bias).view(rows, c.heads + 2 * c.kv_heads, c.head_dim)
        q, k, v = qkv.split([c.heads, c.kv_heads, c.kv_heads], 1)
        if layer.q_norm is not None and layer.k_norm is not None:
            q = F.rms_norm(q, layer.q_norm.shape, layer.q_norm, c.norm_eps)
            k = F.rms_norm(k, layer.k_norm.shape, layer.k_norm, c.norm_eps)
        mixed = kv.attend(index, _rotate(q, cos, sin), _rotate(k, cos, sin), v, c.windows[index])
        x = x + F.linear(mixed.reshape(rows, -1), layer.out, layer.out_bias)
        normed = F.rms_norm(x, layer.norm_mlp.shape, layer.norm_mlp, c.norm_eps)
        gate, up = F.linear(normed, layer.gate_up, layer.gate_up_bias).chunk(2, -1)
        return x + F.linear(F.silu(gate) * up, layer.down, layer.down_bias)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding, half-split form (as Hugging Face stores the weights)."""
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat([-right, left], -1) * sin


# ---------------------------------------------------------------- loading


def _layer(weights: dict[str, Tensor], prefix: str) -> _Layer:
    def fused(names: tuple[str, ...], kind: str) -> Tensor | None:
        parts = [weights.get(f"{prefix}{name}.{kind}") for name in names]
        if any(p is None for p in parts):
            if kind == "weight":
                raise KeyError(f"{prefix}{names[0]}.{kind}")
            return None
        return torch.cat([p for p in parts if p is not None])

    def matrix(*names: str) -> Tensor:
        found = fused(names, "weight")
        assert found is not None  # fused raises KeyError for a missing weight
        return found

    qkv = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    gate_up = ("mlp.gate_proj", "mlp.up_proj")
    return _Layer(
        norm_in=weights[prefix + "input_layernorm.weight"],
        norm_mlp=weights[prefix + "post_attention_layernorm.weight"],
        qkv=matrix(*qkv),
        qkv_bias=fused(qkv, "bias"),
        out=matrix("self_attn.o_proj"),
        out_bias=fused(("self_attn.o_proj",), "bias"),
        gate_up=matrix(*gate_up),
        gate_up_bias=fused(gate_up, "bias"),
        down=matrix("mlp.down_proj"),
        down_bias=fused(("mlp.down_proj",), "bias"),
        q_norm=weights.get(prefix + "self_attn.q_norm.weight"),
        k_norm=weights.get(prefix + "self_attn.k_norm.weight"),
    )


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
