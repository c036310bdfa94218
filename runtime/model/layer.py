"""One layer of the decoder: its weights, laid out so that a row costs few operations, and its arithmetic.

A small model's step is mostly the cost of starting operations. What does not live here: embedding, head and the order of
layers (decoder.py), attention and what it remembers (kv.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from runtime.model.kv import KVCache, KVShape


@dataclass(frozen=True, slots=True)
class Linear:
    """A projection; see :meth:`laid_out`."""

    weight: Tensor
    """[inputs, outputs]."""
    bias: Tensor | None

    @classmethod
    def laid_out(cls, weight: Tensor, bias: Tensor | None) -> Linear:
        """Take a weight [outputs, inputs], as checkpoints store it, and lay it out as it is multiplied fastest."""
        # In float32 a CPU multiplies a few rows by the transpose up to 1.7 times as fast; in float16 it is far slower.
        turned = weight.t()
        return cls(turned.contiguous() if _float32_on_cpu(weight) else turned, bias)

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, inputs] to a new [rows, outputs]."""
        return torch.mm(x, self.weight) if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def onto(self, residual: Tensor, x: Tensor) -> Tensor:
        """Return residual [rows, outputs] plus the projection of x [rows, inputs], as a new tensor."""
        out = torch.addmm(residual, x, self.weight)
        return out if self.bias is None else out.add_(self.bias)


class Norm:
    """Root-mean-square norm over the last axis: x / sqrt(mean square + eps) * weight."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight, self._eps = weight, eps
        # torch does it in one operation on CUDA and in nine on the CPU, where float32 needs but four.
        self._in_four = _float32_on_cpu(weight)
        root = math.sqrt(len(weight))
        self._scaled, self._least = weight * root, torch.tensor(root * math.sqrt(eps))

    def __call__(self, x: Tensor) -> Tensor:
        """[..., size] to a new [..., size]."""
        if not self._in_four:
            return F.rms_norm(x, self.weight.shape, self.weight, self._eps)
        lengths = torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(self._least)  # sqrt(size * (mean square + eps))
        return (x / lengths).mul_(self._scaled)


@dataclass(frozen=True, slots=True)
class Turns:
    """The rotary embedding of some rows, half-split form (as Hugging Face stores the weights)."""

    cos: Tensor
    sin: Tensor
    """Negative in the first half."""

    def apply_(self, heads: Tensor) -> None:
        """Rotate heads [rows, any, head_dim] in place, half-split form (as Hugging Face stores the weights)."""
        halves = heads.view(*heads.shape[:2], 2, -1)
        swapped = halves.flip(2)
        halves.mul_(self.cos).addcmul_(swapped, self.sin)


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of a layer and what it computes."""

    place: int
    """Of its keys and values in a cache."""
    heads: int
    shape: KVShape
    window: int | None
    """Sliding-window length; None sees everything."""
    norm_in: Norm
    qkv: Linear
    q_norm: Norm | None
    k_norm: Norm | None
    out: Linear
    norm_mlp: Norm
    gate_up: Linear
    down: Linear

    def run(self, x: Tensor, turns: Turns, kv: KVCache) -> Tensor:
        """[rows, hidden] to a new [rows, hidden]; keys and values are appended to `kv`."""
        heads, kv_heads, rows = self.heads, self.shape.kv_heads, x.shape[0]
        qkv = self.qkv(self.norm_in(x)).view(rows, heads + 2 * kv_heads, self.shape.head_dim)
        if self.q_norm is not None and self.k_norm is not None:
            for norm, start, count in ((self.q_norm, 0, heads), (self.k_norm, heads, kv_heads)):
                part = qkv.narrow(1, start, count)
                part.copy_(norm(part))
        turns.apply_(qkv.narrow(1, 0, heads + kv_heads))
        q, new = qkv.split_with_sizes((heads, 2 * kv_heads), 1)
        x = self.out.onto(x, kv.attend(self.place, q, new, self.window).reshape(rows, -1))
        gate, up = self.gate_up(self.norm_mlp(x)).chunk(2, -1)
        return self.down.onto(x, F.silu(gate).mul_(up))

    def tensors(self) -> Iterator[Tensor]:
        """Yield every weight, once."""
        norms = (self.norm_in, self.q_norm, self.k_norm, self.norm_mlp)
        yield from (norm.weight for norm in norms if norm is not None)
        for linear in (self.qkv, self.out, self.gate_up, self.down):
            yield linear.weight
            if linear.bias is not None:
                yield linear.bias


def taken_layer(
    weights: MutableMapping[str, Tensor], index: int, place: int, heads: int, shape: KVShape, window: int | None, eps: float
) -> Layer:
    """Take the tensors of a layer out of those of a checkpoint, named as Hugging Face does, and lay them out.

    Args:
        weights: where they are taken out of.
        index: the layer's number in the checkpoint.
        place: the layer's place in caches.
        heads: of queries.
        shape: of caches.
        window: sliding-window length; None sees everything.
        eps: of the norms.

    Raises:
        KeyError: one is missing.
    """
    prefix = f"model.layers.{index}."

    def norm(name: str) -> Norm:
        return Norm(weights.pop(f"{prefix}{name}.weight"), eps)

    def linear(*names: str) -> Linear:
        weight = torch.cat([weights.pop(f"{prefix}{name}.weight") for name in names])
        biases = [weights.pop(bias) for name in names if (bias := f"{prefix}{name}.bias") in weights]  # all have one, or none
        return Linear.laid_out(weight, torch.cat(biases) if biases else None)

    normed = f"{prefix}self_attn.q_norm.weight" in weights
    return Layer(
        place,
        heads,
        shape,
        window,
        norm_in=norm("input_layernorm"),
        qkv=linear("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        q_norm=norm("self_attn.q_norm") if normed else None,
        k_norm=norm("self_attn.k_norm") if normed else None,
        out=linear("self_attn.o_proj"),
        norm_mlp=norm("post_attention_layernorm"),
        gate_up=linear("mlp.gate_proj", "mlp.up_proj"),
        down=linear("mlp.down_proj"),
    )


def _float32_on_cpu(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu"
