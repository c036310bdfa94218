"""One compact decoder that can be entered and left at any layer.

What lives here: weights, `embed`, layers start..stop, `logits`. What does not: checkpoints (loading.py), caches (kv.py),
exits (exits.py), sampling, tokenizers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.errors import ContextOverflowError
from runtime.model.kv import KVCache, KVShape, SequenceKV
from runtime.model.placement import moved
from runtime.model.tree_kv import TreeKV


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
    forward over their concatenated rows. Weights, hidden states and caches have one type; the rotary tables are worked
    out in float32 and applied in that type, as transformers does.
    """

    def __init__(self, config: ModelConfig, weights: dict[str, Tensor], inv_freq: Tensor, rope_scale: float) -> None:
        self.config = config
        self._embedding = weights["model.embed_tokens.weight"]
        self._norm = weights["model.norm.weight"]
        self.device = self._norm.device
        """Where the weights, hidden states and caches are; ids and positions are moved there."""
        self.dtype = self._norm.dtype
        """The type of weights, hidden states and caches."""
        self._head = weights.get("lm_head.weight", self._embedding)
        self._layers = [_layer(weights, f"model.layers.{i}.") for i in range(config.layers)]
        angles = torch.arange(config.context, dtype=torch.float32)[:, None] * inv_freq.float()[None]
        angles = torch.cat([angles, angles], -1)
        turns = torch.stack([angles.cos(), angles.sin()], 1) * rope_scale
        self._rotary = turns.to(self._norm)  # [context, 2, head_dim]

    def new_cache(self, probe_layer: int | None = None) -> SequenceKV:
        """Return an empty cache of one sequence, on this decoder's device and in its type.

        Args:
            probe_layer: the layer whose attention rows are kept (`SequenceKV.probed`); None keeps none.
        """
        return SequenceKV(self.config.kv_shape, probe_layer=probe_layer, dtype=self.dtype, device=self.device)

    def new_tree(self, probe_layer: int | None = None) -> TreeKV:
        """Return an empty cache of many prefixes that share their beginnings; see :meth:`new_cache`."""
        return TreeKV(self.config.kv_shape, probe_layer=probe_layer, dtype=self.dtype, device=self.device)

    @cached_property
    def weight_bytes(self) -> int:
        """Bytes of all weights, once each."""
        tensors = {id(t): t for layer in self._layers for t in vars(layer).values() if t is not None}
        tensors |= {id(t): t for t in (self._embedding, self._head, self._norm)}
        return sum(t.numel() * t.element_size() for t in tensors.values())

    @torch.inference_mode()
    def embed(self, ids: Tensor) -> Tensor:
        """Token ids [rows], on the CPU or the decoder's device, to hidden states [rows, hidden]."""
        return F.embedding(moved(ids, self.device), self._embedding)

    @torch.inference_mode()
    def run(self, hidden: Tensor, positions: Tensor, kv: KVCache, start: int = 0, stop: int | None = None) -> Tensor:
        """Run layers start..stop (stop not included).

        Args:
            hidden: [rows, hidden], the output of layer start - 1 (or of `embed`).
            positions: int64 [rows], the place of each row in its sequence; best on the CPU, where checking them waits for
                nothing.
            kv: where the layers' keys and values are appended and attended.
            start: first layer.
            stop: one past the last layer; None is all.

        Returns:
            [rows, hidden].

        Raises:
            ContextOverflowError: a position at or past the context length.
        """
        furthest = int(positions.max())
        if furthest >= self.config.context:
            raise ContextOverflowError(
                f"position {furthest} is past the model's context of {self.config.context} tokens; shorten the prompt"
            )
        positions = moved(positions, self.device)
        cos, sin = self._rotary[positions].split(1, 1)  # [rows, 1, head_dim]
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
