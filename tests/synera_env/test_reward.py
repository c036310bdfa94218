from __future__ import annotations

import math
from dataclasses import astuple, fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.session import Cost
from runtime.synera.chunk import ChunkRecord
from synera_env.reward import Preference, reward_terms
from tests.support.records import record, verdict


def test_the_terms_of_an_offloaded_chunk() -> None:
    preference = Preference(quality=2.0, latency=0.5, cost=10.0, energy=0.1, traffic=100.0)
    offloaded = record(None, verdict(cloud_seconds=0.02, uplink_bytes=300, downlink_bytes=200), seconds=0.25, joules=0.5)
    assert reward_terms(offloaded.cost, 0.75, preference) == pytest.approx(
        {"quality": 1.5, "latency": -0.125, "cost": -0.2, "energy": -0.05, "traffic": -0.05}
    )


@pytest.mark.parametrize("kept", [record(seconds=0.2, joules=0.5), record(error="lost", seconds=0.2, joules=0.5)])
def test_a_chunk_without_a_verdict_costs_no_cloud_and_no_traffic(kept: ChunkRecord) -> None:
    terms = reward_terms(kept.cost, 0.0, Preference())
    assert terms == pytest.approx({"quality": 0, "latency": -0.02, "cost": 0, "energy": -0.0025, "traffic": 0})


def test_what_travelled_for_a_lost_check_is_paid_for() -> None:
    lost = record(error="lost", lost_bytes=(400, 100))
    assert reward_terms(lost.cost, 0.0, Preference(traffic=100.0))["traffic"] == pytest.approx(-0.05)


def test_any_system_s_cost_is_priced() -> None:
    """The reward reads nothing of a system but its cost."""
    cost = Cost(seconds=2.0, device_seconds=1.5, wait_seconds=3.0, cloud_seconds=0.5, joules=10.0, uplink_bytes=10**6)
    assert reward_terms(cost, 0.5, Preference(1.0, 0.1, 2.0, 0.01, 0.5)) == pytest.approx(
        {"quality": 0.5, "latency": -0.2, "cost": -1.0, "energy": -0.1, "traffic": -0.5}
    )


@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(1, 20))
def test_sampled_weights_stay_within_the_spread_of_their_defaults(seed: int, spread: float) -> None:
    drawn, default = Preference.sample(np.random.default_rng(seed), spread), Preference()
    assert drawn.quality == default.quality
    for f in fields(Preference):
        ratio = getattr(drawn, f.name) / getattr(default, f.name)
        assert 1 / spread - 1e-9 <= ratio <= spread * (1 + 1e-9)
    assert drawn == Preference.sample(np.random.default_rng(seed), spread)


def test_sampled_weights_differ_and_lie_as_often_above_as_below() -> None:
    rng = np.random.default_rng(0)
    ratios = np.array([astuple(Preference.sample(rng)) for _ in range(2000)]) / astuple(Preference())
    assert len(set(ratios[:, 1])) == 2000
    assert (ratios[:, 1:] > 1).mean(0) == pytest.approx([0.5] * 4, abs=0.05)


@pytest.mark.parametrize("name", [f.name for f in fields(Preference)])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf])
def test_weights_that_make_no_sense_are_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}={value}"):
        Preference(**{name: value})
