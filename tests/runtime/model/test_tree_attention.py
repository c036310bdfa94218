"""The compiled attention against the gathering one, for any tree and shape, and where nothing that was compiled can be kept."""

from __future__ import annotations

import importlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba.core.caching
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from runtime.model import tree_attention
from runtime.model.kv import KVShape
from runtime.model.tree_kv import TreeKV

TOLERANCE = 1e-5


def drawn(rows: int, slots: int, group: int, kv_heads: int, dim: int, seed: int) -> dict[str, Tensor]:
    """Ragged paths that share slots; what pads them are slots, too, as `place` allows."""
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 13, (rows,), generator=rng)
    return {
        "q": torch.randn(rows, group * kv_heads, dim, generator=rng),
        "store": torch.randn(slots, 2 * kv_heads, dim, generator=rng),
        "paths": torch.randint(slots, (rows, int(lengths.max())), generator=rng),
        "lengths": lengths,
    }


def gathered(case: dict[str, Tensor], window: int | None) -> Tensor:
    """The same by the path of other types, in float32."""
    slots, both, dim = case["store"].shape
    kv = TreeKV(KVShape(1, both // 2, dim), room=slots)
    kv._in_place = False
    # `attend` writes the rows' own slots first: give it slots of their own, which no path names.
    kv.place(torch.arange(len(case["q"])) + slots, case["paths"], case["lengths"])
    kv._kv[0, :slots] = case["store"]
    return kv.attend(0, case["q"], torch.zeros(len(case["q"]), both, dim), window)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 9),
    slots=st.integers(1, 30),
    group=st.integers(1, 4),
    kv_heads=st.integers(1, 3),
    dim=st.sampled_from([2, 8, 20, 33]),
    window=st.sampled_from([None, 1, 2, 5, 11, 40]),
    seed=st.integers(0, 2**31),
)
def test_it_equals_attention_over_gathered_paths(
    rows: int, slots: int, group: int, kv_heads: int, dim: int, window: int | None, seed: int
) -> None:
    case = drawn(rows, slots, group, kv_heads, dim, seed)
    torch.testing.assert_close(
        tree_attention.attend_paths(**case, window=window), gathered(case, window), atol=TOLERANCE, rtol=TOLERANCE
    )


def test_large_scores_overflow_nothing() -> None:
    case = drawn(5, 20, 2, 2, 16, 3)
    case["q"] *= 1e4
    found = tree_attention.attend_paths(**case, window=None)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, gathered(case, None), atol=TOLERANCE, rtol=TOLERANCE)


def test_a_part_of_a_larger_tensor_may_be_asked() -> None:
    """As the layers ask: queries, keys and values lie side by side."""
    case = drawn(7, 20, 2, 2, 16, 4)
    wide = torch.cat([case["q"], torch.full_like(case["q"], float("nan"))], 1)
    torch.testing.assert_close(
        tree_attention.attend_paths(**(case | {"q": wide[:, :4]}), window=3), gathered(case, 3), atol=TOLERANCE, rtol=TOLERANCE
    )


def test_threads_may_ask_at_the_same_time() -> None:
    cases = [drawn(9, 30, 2, 2, 16, seed) for seed in range(16)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda case: tree_attention.attend_paths(**case, window=None), cases))
    for case, got in zip(cases, found, strict=True):
        torch.testing.assert_close(got, gathered(case, None), atol=TOLERANCE, rtol=TOLERANCE)


def test_where_no_folder_can_be_written_it_is_compiled_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    try:
        fresh: Any = importlib.reload(tree_attention)
        assert isinstance(fresh._score._cache, numba.core.caching.NullCache)
        case = drawn(5, 20, 2, 2, 16, 3)
        torch.testing.assert_close(
            fresh.attend_paths(**case, window=None), gathered(case, None), atol=TOLERANCE, rtol=TOLERANCE
        )
    finally:
        monkeypatch.undo()
        importlib.reload(tree_attention)
    assert not isinstance(tree_attention._score._cache, numba.core.caching.NullCache)
