"""The caches against attention written out in loops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from runtime.model.kv import KVCache, KVShape, RaggedKV, SequenceKV
from runtime.model.placement import Placement
from runtime.model.tree_kv import TreeKV
from tests.support.placements import assert_near

HEADS, KV_HEADS, DIM = 4, 2, 8
SHAPE = KVShape(layers=2, kv_heads=KV_HEADS, head_dim=DIM)
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Rows:
    """Queries, keys and values of some positions: [rows, heads, dim], [rows, kv_heads, dim] twice.

    Values are rounded to bfloat16 and held in float32, so every type holds the same, and the loops below are exact.
    """

    q: Tensor
    k: Tensor
    v: Tensor

    def __getitem__(self, where: slice) -> Rows:
        return Rows(self.q[where], self.k[where], self.v[where])


def random_rows(count: int, seed: int) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.randn(count, heads, DIM, generator=generator) for heads in (HEADS, KV_HEADS, KV_HEADS))
    return Rows(*(values.bfloat16().float() for values in drawn))


def probabilities(rows: Rows, at: int, window: int | None) -> Tensor:
    """Attention of the position `at` over 0..at: [heads, at + 1]."""
    first = 0 if window is None else max(0, at - window + 1)
    out = torch.zeros(HEADS, at + 1)
    for head in range(HEADS):
        keys = rows.k[first : at + 1, head // (HEADS // KV_HEADS)]
        out[head, first:] = (keys @ rows.q[at, head] / DIM**0.5).softmax(0)
    return out


def attended(rows: Rows, at: int, window: int | None) -> Tensor:
    """Output of the position `at`: [heads, dim]."""
    weights = probabilities(rows, at, window)
    return torch.stack([weights[h] @ rows.v[: at + 1, h // (HEADS // KV_HEADS)] for h in range(HEADS)])


class Bench:
    """Caches of one placement, fed with rows and read in float32 on the CPU."""

    def __init__(self, placement: Placement) -> None:
        self.placement = placement
        self._where: dict[str, Any] = {"dtype": placement.torch_dtype, "device": placement.torch_device}

    def sequence(self) -> SequenceKV:
        return SequenceKV(SHAPE, **self._where)

    def tree(self) -> TreeKV:
        return TreeKV(SHAPE, **self._where)

    def attend(self, kv: KVCache, layer: int, rows: Rows, window: int | None = None) -> Tensor:
        q, k, v = (values.to(**self._where) for values in vars(rows).values())
        out = kv.attend(layer, q, torch.cat([k, v], 1), window)
        assert (out.dtype, out.device.type) == (self.placement.torch_dtype, self.placement.torch_device.type)
        return out.float().cpu()

    def near(self, got: Tensor, wanted: Tensor) -> None:
        assert_near(got, wanted, self.placement.dtype, TOLERANCE)


@pytest.fixture(scope="module")
def bench(placement: Placement) -> Bench:
    return Bench(placement)


windows = st.sampled_from([None, 1, 3, 70])
edits = st.lists(
    st.one_of(st.tuples(st.just("append"), st.integers(1, 40)), st.tuples(st.just("truncate"), st.integers(0, 90))), max_size=12
)


@settings(max_examples=30, deadline=None)
@given(edits=edits, window=windows, seed=st.integers(0, 3))
def test_sequence_equals_attention_over_what_was_kept(
    bench: Bench, edits: list[tuple[str, int]], window: int | None, seed: int
) -> None:
    """Rows are replaced by others after each rollback, so a row that survived by mistake would be seen."""
    kv, kept = bench.sequence(), random_rows(0, 0)
    for turn, (kind, amount) in enumerate(edits):
        length = len(kept.q)
        if kind == "truncate":
            kv.truncate(amount)
            kept = kept[: min(amount, length)]
        else:
            new = random_rows(amount, 100 * seed + turn)
            kept = Rows(*(torch.cat(pair) for pair in zip(vars(kept).values(), vars(new).values(), strict=True)))
            got = bench.attend(kv, 0, new, window)
            for row in {0, amount - 1}:
                bench.near(got[row], attended(kept, length + row, window))
        assert kv.lengths == [len(kept.q), 0]


@settings(max_examples=20, deadline=None)
@given(first=st.lists(st.integers(1, 9), max_size=8), second=st.lists(st.integers(1, 9), max_size=8), window=windows)
def test_chunking_does_not_matter(bench: Bench, first: list[int], second: list[int], window: int | None) -> None:
    outputs = []
    for sizes in (first, second):
        kv, rows, at, out = bench.sequence(), random_rows(20, 1), 0, []
        for size in [*sizes, 20]:
            if part := min(size, 20 - at):
                out.append(bench.attend(kv, 0, rows[at : at + part], window))
                at += part
        outputs.append(torch.cat(out))
    bench.near(*outputs)


def test_layers_keep_their_own_length(bench: Bench) -> None:
    kv, rows = bench.sequence(), random_rows(9, 2)
    bench.attend(kv, 0, rows)
    bench.attend(kv, 1, rows[:4])
    assert kv.lengths == [9, 4]
    kv.truncate(6)
    assert kv.lengths == [6, 4]
    got = bench.attend(kv, 1, rows[4:6])
    bench.near(got[1], attended(rows, 5, None))


def test_memory_grows_with_the_length_and_keeps_the_rows(bench: Bench) -> None:
    kv, rows = bench.sequence(), random_rows(200, 3)
    small = kv.nbytes
    bench.attend(kv, 0, rows[:199])
    assert kv.nbytes > small
    bench.near(bench.attend(kv, 0, rows[199:])[0], attended(rows, 199, None))


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        SequenceKV(SHAPE).truncate(-1)


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 6)), min_size=1, max_size=5), window=windows)
def test_ragged_equals_each_sequence(bench: Bench, sizes: list[tuple[int, int]], window: int | None) -> None:
    if not sum(new for _, new in sizes):
        sizes = [*sizes, (1, 1)]
    together, wanted, parts = [], [], []
    for seed, (old, new) in enumerate(sizes):
        rows = random_rows(old + new, seed)
        caches = bench.sequence(), bench.sequence()
        for kv in caches:
            if old:
                bench.attend(kv, 0, rows[:old], window)
        together.append(caches[0])
        parts.append(rows[old:])
        if new:
            wanted.append(bench.attend(caches[1], 0, rows[old:], window))
    stacked = Rows(*(torch.cat(column) for column in zip(*(vars(p).values() for p in parts), strict=True)))
    got = bench.attend(RaggedKV(together, [new for _, new in sizes]), 0, stacked, window)
    assert torch.equal(got, torch.cat(wanted))  # in every type: the batch is split before anything is computed
    assert [kv.lengths[0] for kv in together] == [old + new for old, new in sizes]


def test_ragged_needs_a_count_for_each_cache() -> None:
    rows = random_rows(3, 0)
    with pytest.raises(ValueError):
        RaggedKV([SequenceKV(SHAPE)], [2, 1]).attend(0, rows.q, torch.cat([rows.k, rows.v], 1), None)


@settings(max_examples=20, deadline=None)
@given(parents=st.lists(st.integers(0, 40), max_size=30), window=windows)
def test_tree_equals_attention_along_each_path(bench: Bench, parents: list[int], window: int | None) -> None:
    """One node at a time, in any order that puts parents first; slots are scattered."""
    paths = [[0]]
    for node, parent in enumerate(parents, 1):
        paths.append([*paths[parent % node], node])
    rows, kv = random_rows(len(paths), 7), bench.tree()
    slot = [3 * node + 1 for node in range(len(paths))]
    for node, path in enumerate(paths):
        padded = torch.tensor([[slot[p] for p in path] + [slot[0]] * 2])
        kv.place(torch.tensor([slot[node]]), padded, torch.tensor([len(path)]))
        got = bench.attend(kv, 0, rows[node : node + 1], window)
        along = Rows(rows.q[path], rows.k[path], rows.v[path])
        bench.near(got[0], attended(along, len(path) - 1, window))


def test_tree_takes_a_slot_again_and_forgets_what_was_in_it(bench: Bench) -> None:
    rows, kv = random_rows(3, 9), bench.tree()
    for node, path in enumerate(([0], [0, 1], [0, 1])):  # the third takes the second's slot
        kv.place(torch.tensor([path[-1]]), torch.tensor([path]), torch.tensor([len(path)]))
        got = bench.attend(kv, 0, rows[node : node + 1])
    along = Rows(rows.q[[0, 2]], rows.k[[0, 2]], rows.v[[0, 2]])
    bench.near(got[0], attended(along, 1, None))


def test_a_row_sees_what_the_rows_beside_it_bring(bench: Bench) -> None:
    """A prompt is run whole, each token a row."""
    rows, kv = random_rows(6, 10), bench.tree()
    paths = torch.arange(6).repeat(6, 1)
    kv.place(torch.arange(6), paths, torch.arange(1, 7))
    for window in (None, 2):
        got = bench.attend(kv, 0, rows, window)
        for at in range(6):
            bench.near(got[at], attended(rows, at, window))


def test_a_tree_of_stated_room_does_not_grow_within_it(bench: Bench) -> None:
    kv = TreeKV(SHAPE, dtype=bench.placement.torch_dtype, device=bench.placement.torch_device, room=8)
    stated = kv.nbytes
    assert stated == 2 * 2 * 8 * KV_HEADS * DIM * bench.placement.torch_dtype.itemsize
    for slot, grown in ((7, False), (8, True)):
        kv.place(torch.tensor([slot]), torch.tensor([[slot]]), torch.tensor([1]))
        assert (kv.nbytes > stated) == grown


def test_tree_grows_and_keeps_what_it_holds(bench: Bench) -> None:
    rows, kv = random_rows(2, 8), bench.tree()
    for node, slot in enumerate((5, 4000)):
        kv.place(torch.tensor([slot]), torch.tensor([[5, 4000][: node + 1]]), torch.tensor([node + 1]))
        got = bench.attend(kv, 0, rows[node : node + 1])
    bench.near(got[0], attended(rows, 1, None))
