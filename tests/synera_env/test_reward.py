from __future__ import annotations

import math
from dataclasses import astuple, fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SettingError
from runtime.session import Cost
from runtime.synera.chunk import ChunkRecord
from synera_env.reward import (
    SPREAD,
    Preference,
    PreferenceRange,
    chosen_preference,
    named_preferences,
    reward_terms,
    trained_for,
)
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


@given(seed=st.integers(0, 2**64 - 1), spread=st.floats(1, 20))
def test_sampled_weights_stay_within_the_spread_of_their_defaults(seed: int, spread: float) -> None:
    drawn, default = Preference.sample(seed, spread), Preference()
    assert drawn.quality == default.quality
    for f in fields(Preference):
        ratio = getattr(drawn, f.name) / getattr(default, f.name)
        assert 1 / spread - 1e-9 <= ratio <= spread * (1 + 1e-9)
    assert drawn == Preference.sample(seed, spread)


def test_sampled_weights_differ_and_lie_as_often_above_as_below() -> None:
    ratios = np.array([astuple(Preference.sample(seed)) for seed in range(2000)]) / astuple(Preference())
    assert len(set(ratios[:, 1])) == 2000
    assert (ratios[:, 1:] > 1).mean(0) == pytest.approx([0.5] * 4, abs=0.05)


@pytest.mark.parametrize("name", [f.name for f in fields(Preference)])
@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "0.1", None, True, [0.1], pytest.param(10**400, id="no float")])
def test_weights_that_make_no_sense_are_named(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"preference weight {name}=.* must be a number at least 0"):
        Preference(**{name: value})


def test_a_range_says_what_is_outside() -> None:
    base = Preference()
    drawn = PreferenceRange.of(None)
    assert drawn.outside(base) == ""
    assert drawn.outside(replace(base, latency=0.2999)) == ""
    assert drawn.outside(replace(base, latency=0.31)) == "latency=0.31, outside 0.0333333..0.3"
    assert drawn.outside(replace(base, quality=2.0)) == "quality=2, not 1"
    assert PreferenceRange.of(base).outside(replace(base, energy=0.0)) == "energy=0, not 0.005"
    assert not any(drawn.outside(Preference.sample(seed)) for seed in range(200))


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (Preference(latency=0.2), Preference(), "preference weight latency ranges from 0.2 to 0.1; it must not fall"),
        ({"latency": 0.1}, Preference(), "low={'latency': 0.1} of a range of preferences must be a Preference"),
        (Preference(), None, "high=None of a range"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(low: Any, high: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        PreferenceRange(low, high)


# ---------------------------------------------------------------- preferences by name


def test_named_preferences_are_at_the_ends_of_what_training_draws() -> None:
    named, default = named_preferences(), Preference()
    assert list(named) == ["balanced", "quality", "speed", "cost", "energy", "traffic"]
    assert named["balanced"] == default
    assert len(set(named.values())) == len(named)
    for name, preference in named.items():
        assert PreferenceRange.of(None).outside(preference) == "", name
        ratios = np.array(preference.weights) / default.weights
        assert ratios[0] == 1
        assert np.isclose(ratios, 1).sum() in (4 if name not in ("balanced", "quality") else 5 if name == "balanced" else 1,)
        assert set(np.round(ratios, 9)) <= {1.0, SPREAD, round(1 / SPREAD, 9)}
    assert named["speed"].latency == pytest.approx(SPREAD * default.latency)
    assert named["quality"].latency == pytest.approx(default.latency / SPREAD)


def test_a_preference_is_named_or_stated_but_not_both() -> None:
    stated = Preference(latency=0.7)
    assert chosen_preference("balanced", stated) == stated
    assert chosen_preference("energy", Preference()) == named_preferences()["energy"]
    with pytest.raises(SettingError, match="prefer=energy and weights of a preference both say"):
        chosen_preference("energy", stated)
    with pytest.raises(SettingError, match="prefer='best' is not one of balanced, quality, speed"):
        chosen_preference("best", Preference())


def test_a_training_is_for_the_default_a_name_or_any() -> None:
    named = named_preferences()
    assert (trained_for("default"), trained_for("sampled"), trained_for("cost")) == (named["balanced"], None, named["cost"])
    with pytest.raises(SettingError, match="preference='balanced' is not one of default, sampled, quality"):
        trained_for("balanced")
