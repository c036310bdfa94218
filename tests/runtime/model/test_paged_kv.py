from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.model import paged_kv
from runtime.model.kv import KVShape, SequenceKV
from runtime.model.paged_kv import BLOCK_TOKENS, PagedKV, PagedStore, Part
from runtime.model.placement import Placement

HEADS, SHAPE = 4, KVShape(2, 2, 8)
SIZES = st.lists(st.tuples(st.integers(0, 70), st.integers(1, 45)), min_size=1, max_size=6)


def rows(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, HEADS, SHAPE.head_dim), torch.randn(count, 2 * SHAPE.kv_heads, SHAPE.head_dim)


def blocks_of(sizes: list[tuple[int, int]]) -> list[list[int]]:
    """Blocks for each sequence, scattered, and one more than each needs."""
    counts = [-(-(before + new) // BLOCK_TOKENS) + 1 for before, new in sizes]
    free = list(range(sum(counts)))
    random.Random(len(free)).shuffle(free)
    return [[free.pop() for _ in range(count)] for count in counts]


@settings(max_examples=60, deadline=None)
@given(SIZES, st.sampled_from([None, 1, 7, 40]), st.sampled_from([0, 32]))
def test_a_batch_is_what_each_sequence_would_be_in_a_cache_of_its_own(
    sizes: list[tuple[int, int]], window: int | None, few_rows: int
) -> None:
    """Compiled and gathered."""
    torch.manual_seed(0)
    blocks = blocks_of(sizes)
    store = PagedStore(SHAPE, sum(map(len, blocks)))
    for layer in store.layers:
        layer.fill_(1e30)  # what was there before counts for nothing
    alone = [SequenceKV(SHAPE) for _ in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paged_kv, "FEW_ROWS", few_rows)
        for layer in range(SHAPE.layers):
            before = [rows(count) for count, _ in sizes]
            for cache, held, (q, kv) in zip(alone, blocks, before, strict=True):
                if len(q):
                    cache.attend(layer, q, kv, window)
                    PagedKV(store, [Part(held, 0, len(q))]).attend(layer, q, kv, window)
            new = [rows(count) for _, count in sizes]
            want = [cache.attend(layer, q, kv, window) for cache, (q, kv) in zip(alone, new, strict=True)]
            parts = [Part(held, count, more) for held, (count, more) in zip(blocks, sizes, strict=True)]
            q, kv = (torch.cat(each) for each in zip(*new, strict=True))
            torch.testing.assert_close(PagedKV(store, parts).attend(layer, q, kv, window), torch.cat(want))


@pytest.mark.parametrize("few_rows", [0, 32], ids=["gathered", "compiled"])
@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite_are_of_no_consequence_to_others(wrong: float, few_rows: int) -> None:
    """To who is in the same forward, and to who has the blocks next: places that are not filled yet are weighed with 0."""
    torch.manual_seed(0)
    store, alone = PagedStore(SHAPE, 6), SequenceKV(SHAPE)
    ill, sound = rows(40), rows(20)
    for each in ill:
        each[::3] = wrong
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paged_kv, "FEW_ROWS", few_rows)
        want = alone.attend(0, *sound, None)
        q, kv = (torch.cat(each) for each in zip(ill, sound, strict=True))
        got = PagedKV(store, [Part([0, 1, 2], 0, 40), Part([3, 4], 0, 20)]).attend(0, q, kv, None)
        torch.testing.assert_close(got[40:], want)
        later = PagedKV(store, [Part([2, 0], 0, 20)]).attend(0, *sound, None)
        torch.testing.assert_close(later, want)


def test_every_type_and_device_gives_the_same(placement: Placement) -> None:
    torch.manual_seed(0)
    sizes = [(20, 3), (0, 5), (33, 1), (4, 40)]
    blocks = blocks_of(sizes)
    kind = {"dtype": placement.torch_dtype, "device": placement.torch_device}
    exact, store = PagedStore(SHAPE, 20), PagedStore(SHAPE, 20, **kind)
    parts = [Part(held, 0, sum(size)) for held, size in zip(blocks, sizes, strict=True)]
    q, kv = (each.to(placement.torch_dtype) for each in rows(sum(map(sum, sizes))))
    want = PagedKV(exact, parts).attend(0, q.float(), kv.float(), None)
    got = PagedKV(store, parts).attend(0, q.to(placement.torch_device), kv.to(placement.torch_device), None)
    assert (got.dtype, got.device.type) == (placement.torch_dtype, placement.torch_device.type)
    torch.testing.assert_close(got.float().cpu(), want, atol=2e-2 if placement.dtype != "float32" else 1e-5, rtol=2e-2)
