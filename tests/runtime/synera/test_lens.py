from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from runtime.synera.chunk import DraftToken
from runtime.synera.knobs import MAX_DRAFT_LENGTH
from runtime.synera.lens import CLUES, QUANTILES, SKETCH_SIZE, Lens, chunk_importance, clues
from tests.support.records import token

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
    table = np.zeros((MAX_DRAFT_LENGTH + 1, QUANTILES), np.float32)
    for length in range(1, MAX_DRAFT_LENGTH + 1):
        table[length] = np.quantile(rng.beta(2, 5, size=500), np.linspace(0, 1, QUANTILES))
    weights = (rng.normal(size=(2, CLUES)) / 4).astype(np.float32)
    return replace(Lens.of_states(states), rejection=weights, importance=table)


def by_confidence(lens: Lens) -> Lens:
    """The same lens, by which a token of confidence c is rejected with probability 1 - c."""
    told = np.zeros_like(lens.rejection)
    told[:, 4] = 1.0  # log of doubt; what is left of log-odds is the log of confidence, about 0 for the confidences below
    return replace(lens, rejection=told)


# ---------------------------------------------------------------- importance


def test_a_token_s_rejection_is_told_by_the_weights_of_its_exit(lens: Lens) -> None:
    felt, sketch = (0.75, 0.5, 1.25), np.linspace(-2, 2, SKETCH_SIZE)
    told = clues(*(np.array([x]) for x in felt), sketch[None])
    assert told.tolist() == [[1.0, *felt, np.log(0.25), *sketch]]
    for exit_index in (0, 1):
        log_odds = float(np.dot(lens.rejection[exit_index].astype(float), told[0]))
        assert lens.rejected(exit_index, told) == pytest.approx([1 / (1 + np.exp(-log_odds))])
    both = lens.rejected(np.array([0, 1]), np.concatenate([told, told]))
    assert both == pytest.approx([*lens.rejected(0, told), *lens.rejected(1, told)])


def test_certainty_is_no_infinite_clue() -> None:
    one, nothing = np.ones(1), np.zeros((1, SKETCH_SIZE))
    assert np.isfinite(clues(one, one, 0 * one, nothing)).all()


@pytest.mark.parametrize(("rejected", "wanted"), [([0.0, 0.0], 0.0), ([0.25], 0.25), ([0.5, 0.5], 0.75), ([0.1, 1.0], 1.0)])
def test_importance_is_the_chance_that_some_token_is_rejected(rejected: list[float], wanted: float) -> None:
    assert chunk_importance(np.array(rejected)) == pytest.approx(wanted)
    assert chunk_importance(np.array(rejected[::-1])) == pytest.approx(wanted)


@settings(deadline=None)
@given(first=st.floats(0, 1, width=32), second=st.floats(0, 1, width=32), length=st.integers(1, MAX_DRAFT_LENGTH))
def test_a_chunk_is_more_important_the_less_sure_a_token_of_it(lens: Lens, first: float, second: float, length: int) -> None:
    low, high = sorted((first, second))
    rest = [token(0.999)] * (length - 1)
    unsure, sure = (by_confidence(lens).importance_quantile([token(c), *rest]) for c in (low, high))
    assert 0.0 <= sure <= unsure <= 1.0


@settings(deadline=None)
@given(
    confidence=st.floats(0, 0.9999999),
    error=st.floats(-1e-6, 1e-6),
    seed=st.integers(0, 30),
    length=st.integers(1, MAX_DRAFT_LENGTH),
)
def test_what_a_live_forward_differs_by_moves_importance_little(
    lens: Lens, confidence: float, error: float, seed: int, length: int
) -> None:
    weights = (np.random.default_rng(seed).normal(size=lens.rejection.shape) / 2).astype(np.float32)
    steep = replace(lens, rejection=weights)
    near = min(max(confidence + error, 0.0), 1.0)
    one, other = (raw_importance(steep, [token(c)] * length) for c in (confidence, near))
    assert abs(one - other) < 0.03  # a percent of the odds of each token, where doubt is least


def raw_importance(lens: Lens, tokens: list[DraftToken]) -> float:
    told = clues(*np.array([(t.confidence, t.margin, t.entropy) for t in tokens]).T, np.stack([t.sketch for t in tokens]))
    return chunk_importance(lens.rejected(np.array([t.exit_index for t in tokens]), told))


def test_quantiles_are_those_of_the_recorded_chunks(lens: Lens) -> None:
    table = np.zeros_like(lens.importance)
    table[2] = np.linspace(0, 1, QUANTILES)
    for doubt in (0.01, 0.1, 0.3):
        tokens = [token(1 - doubt), token(0.5)]
        found = replace(by_confidence(lens), importance=table).importance_quantile(tokens)
        assert found == pytest.approx(raw_importance(by_confidence(lens), tokens), abs=0.011)


@settings(deadline=None)
@given(
    seed=st.integers(0, 1000),
    length=st.integers(1, MAX_DRAFT_LENGTH),
    coordinate=st.integers(0, SKETCH_SIZE - 1),
    towards=st.sampled_from([-np.inf, np.inf]),
)
def test_a_recorded_chunk_has_its_quantile_live_too(
    lens: Lens, seed: int, length: int, coordinate: int, towards: float
) -> None:
    """There a coordinate of a sketch may be rounded to half precision the other way."""
    sketches = np.random.default_rng(seed).normal(size=(length, SKETCH_SIZE)).astype(np.float16)
    recorded = [token(0.9, sketch=s.astype(np.float32)) for s in sketches]
    sketches[0, coordinate] = np.nextafter(sketches[0, coordinate], np.float16(towards))
    live = [token(0.9, sketch=s.astype(np.float32)) for s in sketches]
    raw = raw_importance(lens, recorded)
    table = lens.importance.copy()
    table[length] = np.sort([*np.linspace(0, 0.9 * raw, 40), *[raw] * 21, *np.linspace(1 - 0.9 * (1 - raw), 1, 40)])
    held = replace(lens, importance=table)
    assert held.importance_quantile(live) == held.importance_quantile(recorded) == pytest.approx(61 / QUANTILES)


def test_lengths_that_were_never_recorded_count_as_important(lens: Lens) -> None:
    table = lens.importance.copy()
    table[[1, 4]] = 0
    for length in (1, 4):
        assert replace(lens, importance=table).importance_quantile([token(0.9999)] * length) == 1.0
    assert Lens.neutral(2, HIDDEN).importance_quantile([token(0.9999)] * 3) == 1.0


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
    lens = Lens.of_states([np.random.default_rng(0).normal(size=(5, HIDDEN)).astype(np.float32)])
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
    for name, table in lens.tensors().items():
        changed = Lens.from_tensors(lens.tensors() | {name: table / 2})
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
        ("lens.rejection", lambda t: t[:, 1:], r"lens\.rejection is float32\[2, 20\]; it must be float32\[2, 21\]"),
        ("lens.rejection", lambda t: t * np.float32(np.nan), r"lens\.rejection has values that are not finite"),
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
