from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.synera.knobs import MAX_DRAFT_LENGTH, Knobs

unit = st.floats(0, 1)


def test_the_defaults_never_offload() -> None:
    assert not Knobs().wants_offload(0.0, 1.0, chunk=1, offloaded=0)
    assert not Knobs(confidence_threshold=1.0).wants_offload(0.0, 1.0, chunk=1, offloaded=0)
    assert not Knobs(offload_budget=1.0).wants_offload(0.0, 1.0, chunk=1, offloaded=0)


@given(confidence=unit, importance=unit, chunk=st.integers(1, 200))
def test_full_thresholds_and_budget_always_offload(confidence: float, importance: float, chunk: int) -> None:
    knobs = Knobs(confidence_threshold=1.0, offload_budget=1.0)
    assert knobs.wants_offload(confidence, importance, chunk, offloaded=chunk - 1)


@given(threshold=st.floats(0, 1, exclude_max=True), confidence=unit)
def test_uncertain_is_strictly_below_the_threshold(threshold: float, confidence: float) -> None:
    knobs = Knobs(confidence_threshold=threshold, offload_budget=1.0)
    assert knobs.wants_offload(confidence, 1.0, 1, 0) == (confidence < threshold)


@given(threshold=unit, importance=unit)
def test_important_is_at_least_the_threshold(threshold: float, importance: float) -> None:
    knobs = Knobs(confidence_threshold=1.0, importance_threshold=threshold, offload_budget=1.0)
    assert knobs.wants_offload(0.0, importance, 1, 0) == (importance >= threshold)


@given(budget=unit, chunks=st.integers(1, 120))
def test_the_budget_bounds_the_offloaded_share_and_is_used_up(budget: float, chunks: int) -> None:
    knobs, offloaded = Knobs(confidence_threshold=1.0, offload_budget=budget), 0
    for chunk in range(1, chunks + 1):
        offloaded += knobs.wants_offload(0.0, 1.0, chunk, offloaded)
        assert offloaded == math.ceil(budget * chunk - 1e-9)


@pytest.mark.parametrize("tenths", range(11))
def test_a_budget_in_tenths_is_exact(tenths: int) -> None:
    """0.1 * 30 is a little over 3 in floating point; it must not buy a fourth offload."""
    knobs, offloaded = Knobs(confidence_threshold=1.0, offload_budget=tenths / 10), 0
    for chunk in range(1, 101):
        offloaded += knobs.wants_offload(0.0, 1.0, chunk, offloaded)
        assert offloaded == -(-tenths * chunk // 10)


@pytest.mark.parametrize("name", ["confidence_threshold", "importance_threshold", "exit_margin", "offload_budget"])
@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_fractions_out_of_range_are_shown(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"{name}={value} is outside 0\.\.1"):
        Knobs(**{name: value})


@pytest.mark.parametrize("value", [0, MAX_DRAFT_LENGTH + 1])
def test_draft_lengths_out_of_range_are_shown(value: int) -> None:
    with pytest.raises(ValueError, match=rf"draft_length={value} is outside 1\.\.8"):
        Knobs(draft_length=value)


def test_exits_below_the_last_are_shown() -> None:
    with pytest.raises(ValueError, match="exit_index=-2"):
        Knobs(exit_index=-2)


def test_knobs_are_values() -> None:
    assert Knobs(draft_length=3) == Knobs(draft_length=3)
    assert len({Knobs(), Knobs(), Knobs(exit_index=0)}) == 2
    with pytest.raises(FrozenInstanceError):
        Knobs().draft_length = 3  # type: ignore[misc]
