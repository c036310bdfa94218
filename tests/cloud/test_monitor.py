from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.engine.base import Iteration
from cloud.monitor import Estimate, Monitor, of_pace
from tests.support.paces import NoWait

SIZES = (1, 4, 9, 33, 128, 512)


def feed(monitor: Monitor, forward_ms: float, token_ms: float, count: int, *, noise: float = 0.0, seed: int = 0) -> None:
    """Forwards of varied sizes, by a true g with noise that is a share of it."""
    rng = random.Random(seed)
    for _ in range(count):
        tokens = rng.choice(SIZES)
        monitor.observe(tokens, (forward_ms + token_ms * tokens) * (1 + noise * rng.uniform(-1, 1)))


def test_before_anything_was_seen_the_prior_holds() -> None:
    assert Monitor().estimate == Estimate(0.0, 0.0)
    assert Monitor(Estimate(3.0, 0.5)).estimate.milliseconds(10) == 8.0


@given(forward_ms=st.floats(0.5, 50), token_ms=st.floats(0.005, 2), seed=st.integers(0, 999))
def test_a_true_g_is_recovered_from_noisy_varied_batches(forward_ms: float, token_ms: float, seed: int) -> None:
    monitor = Monitor()
    feed(monitor, forward_ms, token_ms, 200, noise=0.05, seed=seed)
    for tokens in SIZES:
        true = forward_ms + token_ms * tokens
        widest = forward_ms + token_ms * SIZES[-1]  # what the noise is a share of
        assert abs(monitor.estimate.milliseconds(tokens) - true) < 0.1 * true + 0.03 * widest


@given(
    before=st.tuples(st.floats(0.5, 50), st.floats(0.005, 2)),
    after=st.tuples(st.floats(0.5, 50), st.floats(0.005, 2)),
    seed=st.integers(0, 999),
)
def test_a_change_of_g_is_followed(before: tuple[float, float], after: tuple[float, float], seed: int) -> None:
    monitor = Monitor()
    feed(monitor, *before, 200, seed=seed)
    feed(monitor, *after, 200, seed=seed + 1)
    for tokens in SIZES:
        assert monitor.estimate.milliseconds(tokens) == pytest.approx(after[0] + after[1] * tokens, rel=0.02, abs=0.05)


@given(tokens=st.integers(1, 2000), times=st.lists(st.floats(0, 1000), min_size=1, max_size=80))
def test_with_batches_of_one_size_the_slope_stays_what_it_was(tokens: int, times: list[float]) -> None:
    monitor = Monitor()
    for each in times:
        monitor.observe(tokens, each)
    assert monitor.estimate.token_ms == pytest.approx(0.0, abs=1e-9)
    assert 0 <= monitor.estimate.milliseconds(tokens) <= max(times) + 1e-6


@given(noise=st.lists(st.floats(0.5, 2), min_size=300, max_size=300))
def test_a_known_slope_outlives_a_long_time_of_nearly_one_size(noise: list[float]) -> None:
    """Drafts of 4 and 5 tokens, whose times are noise, say nothing of prompts."""
    monitor = Monitor()
    feed(monitor, 5.0, 0.1, 100)
    for number, factor in enumerate(noise):
        monitor.observe(4 + number % 2, 5.4 * factor)
    assert 0 <= monitor.estimate.token_ms < 1.0
    assert monitor.estimate.milliseconds(4) < 11.0


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 1e5)), max_size=60))
def test_no_estimate_is_negative_whatever_is_seen(seen: list[tuple[int, float]]) -> None:
    monitor = Monitor()
    for tokens, took_ms in seen:
        monitor.observe(tokens, took_ms)
        assert monitor.estimate.forward_ms >= 0
        assert 0 <= monitor.estimate.token_ms < 1e6


def test_it_watches_an_engine_s_forwards() -> None:
    monitor = Monitor()
    for tokens in (10, 100) * 100:
        monitor.iterated(Iteration(0.002 + 1e-4 * tokens, 2, tokens - 3, 2, 1, 0))
    assert monitor.estimate.forward_ms == pytest.approx(2.0, rel=0.01)
    assert monitor.estimate.token_ms == pytest.approx(0.1, rel=0.01)


def test_an_emulated_machine_is_known_beforehand() -> None:
    class Paced(NoWait):
        def forward_seconds(self, tokens: int) -> float:
            return 0.003 + 0.0002 * tokens

    assert of_pace(None) == Estimate()
    found = of_pace(Paced())
    assert (found.forward_ms, found.token_ms) == (pytest.approx(3.0), pytest.approx(0.2))
