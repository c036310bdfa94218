"""The pieces of a layer against their formulas, and a row by itself against the same row in a batch, for any model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from runtime.model.decoder import Decoder, ModelConfig
from runtime.model.layer import Linear, Norm, Turns
from runtime.model.placement import Placement
from tests.support.placements import assert_near

VOCAB, CONTEXT = 29, 96


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Normal values, rounded to bfloat16 and held in float32, so that every type holds the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16().float()


def there(placement: Placement, *tensors: Tensor) -> list[Tensor]:
    return [t.to(placement.torch_device, placement.torch_dtype) for t in tensors]


# ---------------------------------------------------------------- pieces


@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (3, 5, 24)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 300.0])  # the smallest is lost in eps
def test_a_norm_is_its_formula(placement: Placement, shape: tuple[int, ...], scale: float) -> None:
    if scale < 1 and placement.dtype == "float16":
        pytest.skip("below what float16 holds")
    x, weight, eps = scale * drawn(*shape), drawn(24, seed=1), 1e-5
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + eps).sqrt() * weight
    on, weight_on = there(placement, x, weight)
    assert_near(Norm(weight_on, eps)(on), exact.float(), placement.dtype, 2e-6)
    assert torch.equal(on.float().cpu(), there(placement, x)[0].float().cpu())  # its input is left alone


def test_a_norm_of_nothing_is_nothing(placement: Placement) -> None:
    zeros, weight = there(placement, torch.zeros(2, 8), drawn(8))
    assert not Norm(weight, 1e-6)(zeros).any()


@pytest.mark.parametrize("rows", [1, 6])
def test_turns_are_those_of_transformers(placement: Placement, rows: int) -> None:
    heads, dim = drawn(rows, 3, 8), 8
    angles = drawn(rows, dim // 2, seed=1)
    whole = torch.cat([angles, angles], -1)[None]
    wanted = apply_rotary_pos_emb(heads.transpose(0, 1)[None], heads.transpose(0, 1)[None], whole.cos(), whole.sin())[0]
    cos, sin = angles.cos(), angles.sin()
    tables = [torch.stack(pair, 1)[:, None] for pair in ((cos, cos), (-sin, sin))]
    padded = torch.cat([heads, 9 * torch.ones(rows, 2, dim)], 1)  # in place, and only where it is told
    padded, *tables = there(placement, padded, *tables)
    Turns(*tables).apply_(padded[:, :3])
    assert_near(padded[:, :3], wanted[0].transpose(0, 1), placement.dtype, 1e-6)
    assert (padded[:, 3:] == 9).all()


@pytest.mark.parametrize("biased", [False, True])
def test_a_projection_adds_its_bias_and_what_it_is_put_onto(placement: Placement, biased: bool) -> None:
    x, weight, bias, residual = drawn(3, 5), drawn(5, 4, seed=1), drawn(4, seed=2), drawn(3, 4, seed=3)
    wanted = x @ weight + (bias if biased else 0)
    on_x, on_weight, on_bias, on_residual = there(placement, x, weight, bias, residual)
    linear = Linear(on_weight, on_bias if biased else None)
    assert_near(linear(on_x), wanted, placement.dtype, 1e-5)
    assert_near(linear.onto(on_residual, on_x), residual + wanted, placement.dtype, 1e-5)
    assert torch.equal(on_residual.float().cpu(), residual)  # a new tensor


# ---------------------------------------------------------------- one row against many


@st.composite
def decoders(draw: st.DrawFn) -> Decoder:
    """Any small decoder: grouped heads or not, biases, norms of heads, a window for some layers, a head of its own."""
    layers, kv_heads, dim = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.sampled_from([2, 6, 8]))
    heads, hidden, mlp = kv_heads * draw(st.integers(1, 3)), draw(st.sampled_from([8, 20])), draw(st.sampled_from([4, 24]))
    biased, mlp_biased, normed, tied = (draw(st.booleans()) for _ in range(4))
    windows = tuple(draw(st.lists(st.sampled_from([None, 1, 3, 9, 200]), min_size=layers, max_size=layers)))
    config = ModelConfig("any", VOCAB, hidden, layers, heads, kv_heads, dim, 1e-6, CONTEXT, windows, (layers,), (2,))
    shapes: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (heads * dim, hidden),
        "self_attn.k_proj": (kv_heads * dim, hidden),
        "self_attn.v_proj": (kv_heads * dim, hidden),
        "self_attn.o_proj": (hidden, heads * dim),
        "mlp.gate_proj": (mlp, hidden),
        "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
    }
    weights = {"model.embed_tokens.weight": drawn(VOCAB, hidden), "model.norm.weight": 1 + 0.3 * drawn(hidden, seed=1)}
    if not tied:
        weights["lm_head.weight"] = drawn(VOCAB, hidden, seed=2)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        norms = {"input_layernorm": hidden, "post_attention_layernorm": hidden}
        norms |= {"self_attn.q_norm": dim, "self_attn.k_norm": dim} if normed else {}
        weights |= {f"{prefix}{name}.weight": 1 + 0.3 * drawn(size, seed=layer) for name, size in norms.items()}
        for seed, (name, shape) in enumerate(shapes.items()):
            weights[f"{prefix}{name}.weight"] = 0.3 * drawn(*shape, seed=10 * layer + seed)
            if mlp_biased if "mlp" in name else biased:
                weights[f"{prefix}{name}.bias"] = drawn(shape[0], seed=10 * layer + seed + 1)
    frequencies = 1.0 / 100.0 ** (torch.arange(0, dim, 2) / dim)
    return Decoder(config, weights, frequencies, draw(st.sampled_from([1.0, 1.2])))


@settings(max_examples=60, deadline=None)
@given(
    decoder=decoders(),
    steps=st.lists(st.tuples(st.integers(1, 20), st.integers(0, 12)), min_size=1, max_size=4),
    seed=st.integers(0, 9),
)
def test_a_row_by_itself_is_as_in_a_batch(decoder: Decoder, steps: list[tuple[int, int]], seed: int) -> None:
    """Rows one by one, with rollbacks between, against the whole prefix in one forward, which takes the general way."""
    kv, kept = decoder.new_cache(), torch.empty(0, dtype=torch.int64)
    for turn, (count, dropped) in enumerate(steps):
        new = torch.randint(0, VOCAB, (count,), generator=torch.Generator().manual_seed(10 * seed + turn))
        rows: list[Tensor] = []
        for place, token in enumerate(new, len(kept)):
            rows.append(decoder.run(decoder.embed(token[None]), torch.tensor([place]), kv))
        kept = torch.cat([kept, new])
        whole = decoder.new_cache()
        wanted = decoder.run(decoder.embed(torch.cat([kept, kept[:1]])), torch.arange(len(kept) + 1), whole)
        torch.testing.assert_close(torch.cat(rows), wanted[-count - 1 : -1], atol=2e-4, rtol=2e-4)
        kept = kept[: max(0, len(kept) - dropped)]
        kv.truncate(len(kept))
        assert kv.lengths == [len(kept)] * decoder.config.layers
