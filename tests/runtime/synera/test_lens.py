from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from runtime.errors import CheckpointError
from runtime.model.kv import ATTENTION_WINDOW
from runtime.synera.knobs import MAX_DRAFT_LENGTH
from runtime.synera.lens import SKETCH_SIZE, Lens, chunk_importance

HIDDEN = 24


@pytest.fixture(scope="module")
def states() -> list[NDArray[np.float32]]:
    """Hidden states of two exits, [300, HIDDEN], of very different scales along each axis."""
    rng = np.random.default_rng(0)
    scales = np.geomspace(10, 0.1, HIDDEN)
    return [(rng.normal(size=(300, HIDDEN)) * scales + shift).astype(np.float32) for shift in (0, 3)]


@pytest.fixture(scope="module")
def lens(states: list[NDArray[np.float32]]) -> Lens:
    rng = np.random.default_rng(1)
    return Lens.fit(states, {length: rng.beta(2, 5, size=500).tolist() for length in range(3, MAX_DRAFT_LENGTH + 1)})


def _rows(raw: float) -> list[NDArray[np.float32]]:
    """A chunk of three whose importance is `raw`."""
    second = np.zeros(ATTENTION_WINDOW, np.float32)
    second[1] = raw
    return [np.zeros(ATTENTION_WINDOW, np.float32), second]


# ---------------------------------------------------------------- importance


def test_importance_is_the_largest_attention_received_from_inside_the_chunk() -> None:
    rows = [np.full(ATTENTION_WINDOW, 0.9, np.float32), np.full(ATTENTION_WINDOW, 0.1, np.float32)]
    assert chunk_importance(rows) == pytest.approx(0.1)  # the first token's row looks only at the prompt
    rows.append(np.array([0.9, 0.2, 0.3, 0.8, 0, 0, 0, 0], np.float32))
    assert chunk_importance(rows) == pytest.approx(0.3)  # own position and those before the chunk do not count


@pytest.mark.parametrize("tokens", [0, 1])
def test_importance_is_unknown_where_no_later_token_was_read(lens: Lens, tokens: int) -> None:
    rows = [np.ones(ATTENTION_WINDOW, np.float32)] * tokens
    assert chunk_importance(rows) is None
    assert lens.importance_quantile(rows, tokens + 1) == 1.0


@settings(deadline=None)
@given(first=st.floats(0, 1, width=32), second=st.floats(0, 1, width=32), length=st.integers(3, MAX_DRAFT_LENGTH))
def test_quantiles_rise_with_importance(lens: Lens, first: float, second: float, length: int) -> None:
    low, high = sorted((first, second))
    below, above = lens.importance_quantile(_rows(low), length), lens.importance_quantile(_rows(high), length)
    assert 0.0 <= below <= above <= 1.0


def test_quantiles_are_those_of_the_recorded_chunks() -> None:
    values = np.linspace(0, 1, 1001)
    lens = Lens.fit([np.eye(4, dtype=np.float32)], {5: values.tolist()})
    for raw in (0.0, 0.25, 0.5, 0.9, 1.0):
        assert lens.importance_quantile(_rows(raw), 5) == pytest.approx(raw, abs=0.011)


def test_lengths_that_were_never_recorded_count_as_important() -> None:
    lens = Lens.fit([np.eye(4, dtype=np.float32)], {5: [0.1, 0.2], 6: []})
    assert [lens.importance_quantile(_rows(raw), length) for raw in (0.0, 0.5) for length in (4, 6)] == [1.0] * 4


# ---------------------------------------------------------------- sketch


def test_recorded_states_have_unit_variance_in_the_sketch(lens: Lens, states: list[NDArray[np.float32]]) -> None:
    for exit_index, hidden in enumerate(states):
        sketch = lens.sketch(hidden, exit_index)
        assert sketch.shape == (len(hidden), SKETCH_SIZE)
        np.testing.assert_allclose(sketch.mean(0), 0, atol=0.02)
        np.testing.assert_allclose(sketch.std(0), 1, atol=0.02)


def test_directions_are_the_widest_ones(lens: Lens, states: list[NDArray[np.float32]]) -> None:
    """The scales of the states fall along the axes, so the first direction is nearly the first axis."""
    first = lens.directions[0, 0] / np.linalg.norm(lens.directions[0, 0])
    assert abs(first[0]) > 0.95
    np.testing.assert_allclose(lens.mean[1], states[1].mean(0), rtol=1e-5)


@settings(deadline=None)
@given(scale=st.floats(0, 1e6), seed=st.integers(0, 20))
def test_sketches_are_bounded_and_survive_half_precision(lens: Lens, scale: float, seed: int) -> None:
    hidden = (scale * np.random.default_rng(seed).normal(size=HIDDEN)).astype(np.float32)
    sketch = lens.sketch(hidden, 1)
    assert sketch.shape == (SKETCH_SIZE,)
    assert sketch.dtype == np.float32
    assert np.abs(sketch).max() <= 8.0
    assert np.array_equal(sketch, sketch.astype(np.float16).astype(np.float32))


def test_few_samples_leave_the_other_directions_zero() -> None:
    lens = Lens.fit([np.random.default_rng(0).normal(size=(5, HIDDEN)).astype(np.float32)], {})
    assert lens.directions.shape == (1, SKETCH_SIZE, HIDDEN)
    assert not lens.directions[0, 5:].any()
    assert np.isfinite(lens.sketch(np.ones(HIDDEN, np.float32), 0)).all()


# ---------------------------------------------------------------- storage


def test_the_tables_survive_a_file(lens: Lens, tmp_path: Path) -> None:
    save_file(lens.tensors() | {"other": np.zeros(3)}, tmp_path / "lens.safetensors")
    back = Lens.load(tmp_path / "lens.safetensors")
    for name, table in lens.tensors().items():
        assert table.dtype == np.float32
        assert np.array_equal(back.tensors()[name], table)
    assert back.fingerprint == lens.fingerprint


def test_the_fingerprint_follows_the_tables(lens: Lens) -> None:
    changed = Lens(lens.mean + 1, lens.directions, lens.importance)
    assert changed.fingerprint != lens.fingerprint


def test_files_that_are_missing_damaged_or_of_something_else_are_named(lens: Lens, tmp_path: Path) -> None:
    path = tmp_path / "lens.safetensors"
    with pytest.raises(CheckpointError, match=r"lens\.safetensors"):
        Lens.load(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=r"lens\.safetensors"):
        Lens.load(path)
    save_file({"lens.mean": lens.mean}, path)
    with pytest.raises(CheckpointError, match=r"lens\.directions"):
        Lens.load(path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("lens.mean", lambda t: t[0], r"lens\.mean is float32\[24\]"),
        ("lens.mean", lambda t: t[:1], r"lens\.directions is float32\[2, 16, 24\]; it must be float32\[1, 16, 24\]"),
        ("lens.mean", lambda t: t[:, :0], r"lens\.mean is float32\[2, 0\]; .* not empty"),
        ("lens.mean", lambda t: t.astype(np.float64), r"lens\.mean is float64\[2, 24\]; it must be float32\[2, 24\]"),
        ("lens.directions", lambda t: t[:, :15], r"lens\.directions is float32\[2, 15, 24\]; it must be float32\[2, 16, 24\]"),
        ("lens.directions", lambda t: t.astype(np.int32), r"lens\.directions is int32"),
        ("lens.directions", lambda t: t * np.float32(np.nan), r"lens\.directions has values that are not finite"),
        ("lens.mean", lambda t: t + np.float32(np.inf), r"lens\.mean has values that are not finite"),
        ("lens.importance", lambda t: t[:-1], r"lens\.importance is float32\[8, 101\]; it must be float32\[9, 101\]"),
        ("lens.importance", lambda t: t[:, ::-1].copy(), r"lens\.importance must rise within 0\.\.1"),
        ("lens.importance", lambda t: t + 1, r"lens\.importance must rise within 0\.\.1"),
        ("lens.importance", lambda t: t - 1, r"lens\.importance must rise within 0\.\.1"),
    ],
)
def test_tables_that_make_no_sense_are_named(
    lens: Lens, tmp_path: Path, name: str, change: Callable[[NDArray[np.float32]], NDArray[np.float32]], message: str
) -> None:
    tensors = lens.tensors() | {name: np.ascontiguousarray(change(lens.tensors()[name]))}
    save_file(tensors, tmp_path / "lens.safetensors")
    with pytest.raises(CheckpointError, match=rf"no usable lens in .*lens\.safetensors: {message}"):
        Lens.load(tmp_path / "lens.safetensors")
    with pytest.raises(CheckpointError, match=message):
        Lens.from_tensors(tensors)


def test_a_file_of_another_kind_of_tensors_is_named(tmp_path: Path) -> None:
    save_torch({"lens.mean": torch.zeros(2, 3, dtype=torch.bfloat16)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"no usable lens in .*model\.safetensors"):
        Lens.load(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no usable lens in"):
        Lens.load(tmp_path)


def test_a_lens_of_another_model_is_refused(lens: Lens) -> None:
    lens.require_fit(2, HIDDEN)
    for exits, hidden in ((1, HIDDEN), (2, 8)):
        with pytest.raises(
            CheckpointError, match=f"the lens is for 2 exits of hidden size 24, the SLM has {exits} of {hidden}"
        ):
            lens.require_fit(exits, hidden)
