"""Branches of one prefix against a cache of each."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.hat.branches import BranchKV
from runtime.model.kv import KVShape, SequenceKV

LAYERS, HEAD_DIM = 2, 8


@given(
    length=st.integers(0, 70),
    branches=st.integers(1, 4),
    steps=st.integers(1, 9),
    kv_heads=st.sampled_from([1, 2, 4]),
    groups=st.sampled_from([1, 2, 3]),
    window=st.sampled_from([None, 1, 2, 5, 40]),
    over=st.integers(0, 3),
    data=st.data(),
)
def test_each_row_sees_the_prefix_and_its_own_branch_and_an_adopted_one_goes_on(
    length: int, branches: int, steps: int, kv_heads: int, groups: int, window: int | None, over: int, data: st.DataObject
) -> None:
    noise = torch.Generator().manual_seed(length + 100 * branches + steps)
    shape = KVShape(LAYERS, kv_heads, HEAD_DIM)
    prefix, own = SequenceKV(shape), [SequenceKV(shape) for _ in range(branches)]
    before = torch.randn(LAYERS, length + over, 2 * kv_heads, HEAD_DIM, generator=noise)  # some places behind what is shared
    for layer in range(LAYERS):
        prefix.append(layer, before[layer])
        for each in own:
            each.append(layer, before[layer, :length])
    shared = BranchKV(prefix, length, branches)
    rows = torch.randn(steps, LAYERS, 2, branches, kv_heads * groups, HEAD_DIM, generator=noise)
    new = torch.randn(steps, LAYERS, branches, 2 * kv_heads, HEAD_DIM, generator=noise)
    for step in range(steps):
        for layer in range(LAYERS):
            q, kv = rows[step, layer, 0], new[step, layer]
            found = shared.attend(layer, q, kv, window)
            wanted = torch.cat([own[b].attend(layer, q[b : b + 1], kv[b : b + 1], window) for b in range(branches)])
            torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert prefix.lengths == [length + over] * LAYERS  # nothing was written
    chosen, kept = data.draw(st.integers(0, branches - 1)), data.draw(st.integers(1, steps))
    shared.adopt(chosen, kept)
    own[chosen].truncate(length + kept)
    assert prefix.lengths == [length + kept] * LAYERS
    q, kv = rows[0, 0, 1, :1], new[0, 0, :1]
    torch.testing.assert_close(prefix.attend(1, q, kv, window), own[chosen].attend(1, q, kv, window), atol=1e-5, rtol=1e-4)


def test_layers_that_the_branches_did_not_run_are_cut_to_what_is_shared() -> None:
    prefix = SequenceKV(KVShape(2, 1, 4))
    for layer in range(2):
        prefix.append(layer, torch.ones(5, 2, 4))
    shared = BranchKV(prefix, 3, 2)
    shared.attend(0, torch.ones(2, 1, 4), torch.ones(2, 2, 4), None)
    shared.adopt(1, 1)
    assert prefix.lengths == [4, 3]


def test_what_is_adopted_is_bit_for_bit_what_was_run() -> None:
    prefix = SequenceKV(KVShape(1, 1, 4))
    kv = torch.randn(2, 2, 4, generator=torch.Generator().manual_seed(1))
    shared = BranchKV(prefix, 0, 2)
    shared.attend(0, torch.ones(2, 1, 4), kv, None)
    shared.adopt(1, 1)
    keys, values = prefix.seen(0, 1)
    assert torch.equal(torch.cat([keys, values])[:, 0], kv[1])


pytestmark = pytest.mark.filterwarnings("error")
