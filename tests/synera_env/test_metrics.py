from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.session import Ahead
from synera_env.metrics import EpisodeMetrics, bootstrap_interval, episode_metrics, quantile, summarise
from synera_env.reward import Preference
from tests.support.records import draft, record, verdict


def test_the_metrics_of_a_hand_made_answer() -> None:
    records = [
        record(
            draft((0.9, 0.5, 0.5)),
            verdict(1, cloud_seconds=0.02, cloud_tokens=30, uplink_bytes=300, downlink_bytes=200),
            committed=2,
            at=0.5,
            ahead=Ahead((0, 1), 0.5, True, drafted=3, kept=2, seconds=0.1, saved_seconds=0.06, wasted_joules=0.01),
        ),
        record(committed=1, at=0.75, joules=0.25),
        record(
            draft((0.5,)),
            verdict(1, cloud_seconds=0.03, cloud_tokens=4, uplink_bytes=100, downlink_bytes=50),
            committed=2,
            at=1.25,
        ),
        record(
            error="lost",
            committed=3,
            at=3.25,
            joules=1.0,
            ahead=Ahead((7, None), 0.4, False, drafted=2, kept=0, seconds=0.1, saved_seconds=-0.02, wasted_joules=0.04),
        ),
    ]
    preference = Preference(quality=2.0, latency=1.0, cost=10.0, energy=0.1, traffic=1000.0)
    found = episode_metrics(records, 0.5, preference)
    gaps = [0, 0.25, 0.5, 0, 2.0, 0, 0]
    wanted = EpisodeMetrics(
        quality=0.5,
        reward=2.0 * 0.5 - 4 * 0.25 - 10.0 * 0.05 - 0.1 * 2.25 - 1000.0 * 650e-6,
        ttft_seconds=0.5,
        tbt_mean_seconds=float(np.mean(gaps)),
        tbt_p95_seconds=float(np.quantile(gaps, 0.95)),
        seconds=3.25,
        tokens=8,
        tokens_per_second=8 / 3.25,
        chunks=4,
        offload_rate=0.75,
        acceptance_rate=2 / 4,
        cloud_seconds=0.05,
        cloud_tokens=34,
        uplink_bytes=400,
        downlink_bytes=250,
        joules=2.25,
        lost_chunks=1,
        hit_rate=0.5,
        saved_seconds=0.04,
        wasted_joules=0.05,
    )
    assert asdict(found) == pytest.approx(asdict(wanted))


def test_an_answer_of_one_token_has_no_gaps() -> None:
    found = episode_metrics([record(committed=1, at=0.5)], 1.0, Preference())
    assert (found.tokens, found.ttft_seconds, found.seconds) == (1, 0.5, 0.5)
    assert (found.tbt_mean_seconds, found.tbt_p95_seconds) == (0.0, 0.0)
    assert math.isnan(found.acceptance_rate)
    assert math.isnan(found.hit_rate)
    assert (found.saved_seconds, found.wasted_joules) == (0.0, 0.0)


def test_a_summary_is_the_mean_of_each_metric() -> None:
    first = replace(episode_metrics([record(draft(), verdict(1), at=1.0)], 1.0, Preference()), reward=0.5)
    second = replace(episode_metrics([record(at=3.0)], 0.0, Preference()), reward=-0.5)
    for answers in ([first, second], [asdict(first), asdict(second)]):
        found = summarise(answers)
        assert found["answers"] == 2
        assert (found["quality"], found["reward"], found["seconds"], found["offload_rate"]) == (0.5, 0.0, 2.0, 0.5)
        assert found["acceptance_rate"] == 0.5, "the answer without an offload is left out"
        assert found["quality_low"] <= 0.5 <= found["quality_high"]


def test_a_metric_that_no_answer_has_is_nan_and_so_is_its_interval() -> None:
    kept = replace(episode_metrics([record()], 1.0, Preference()), reward=0.0)
    assert math.isnan(summarise([kept, kept])["acceptance_rate"])
    unscored = summarise([replace(kept, quality=math.nan)])
    assert all(math.isnan(unscored[name]) for name in ("quality", "quality_low", "quality_high"))
    assert unscored["reward"] == unscored["reward_low"] == 0.0


def test_a_summary_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no answers"):
        summarise([])


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(-100, 100), min_size=1, max_size=30), seed=st.integers(0, 100))
def test_the_interval_contains_the_mean_and_stays_within_the_values(values: list[float], seed: int) -> None:
    array = np.array(values)
    low, high = bootstrap_interval(array, seed)
    slack = 1e-9 + 0.02 * np.ptp(array)  # a quantile of resampled means of a lopsided sample can miss by a hair
    assert low - slack <= array.mean() <= high + slack
    assert array.min() - 1e-9 <= low <= high <= array.max() + 1e-9
    assert (low, high) == bootstrap_interval(array, seed)


def test_the_interval_is_that_of_a_normal_mean_and_narrows_with_the_sample() -> None:
    rng = np.random.default_rng(0)
    small, large = (bootstrap_interval(rng.normal(5, 2, n)) for n in (50, 800))
    assert large[1] - large[0] == pytest.approx(2 * 1.96 * 2 / math.sqrt(800), rel=0.15)
    assert small[1] - small[0] > 3 * (large[1] - large[0])


@pytest.mark.parametrize("count", [1, 7])
def test_equal_values_have_an_interval_of_no_width(count: int) -> None:
    assert bootstrap_interval(np.full(count, 0.25)) == (0.25, 0.25)


@given(
    values=st.lists(st.one_of(st.just(0.0), st.floats(0, 1e4)), min_size=1, max_size=60),
    share=st.one_of(st.sampled_from([0.0, 0.5, 0.95, 1.0]), st.floats(0, 1)),
)
def test_a_quantile_is_numpy_s_to_the_bit(values: list[float], share: float) -> None:
    assert quantile(values, share) == np.quantile(values, share)
