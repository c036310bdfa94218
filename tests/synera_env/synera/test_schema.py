from __future__ import annotations

import math
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.synera.knobs import MAX_DRAFT_LENGTH, Knobs
from runtime.synera.session import DecisionPoint, Draft, StepRecord
from synera_env.reward import Preference
from synera_env.synera import schema as spaces
from synera_env.synera.schema import FEATURES, HISTORY, KNOB_NAMES, Encoder
from tests.support.records import draft, point, record, token, verdict

NAMES = [f.name for f in FEATURES]
grid = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 0.875, 1.0])  # exact in the float32 of an action


def encode(
    at: DecisionPoint, records: list[StepRecord] | None = None, preference: Preference | None = None, exits: int = 3
) -> dict[str, float]:
    """The observation by feature name."""
    values = Encoder(exits).encode(at, records or [], preference or Preference())
    return dict(zip(NAMES, values.tolist(), strict=True))


# ---------------------------------------------------------------- knobs


@st.composite
def exits_and_knobs(draw: st.DrawFn, level: st.SearchStrategy[float] = grid) -> tuple[int, Knobs]:
    exits = draw(st.integers(1, 6))
    return exits, Knobs(
        draw(level),
        draw(level),
        draw(st.integers(0, exits - 1)),
        draw(level),
        draw(st.integers(1, MAX_DRAFT_LENGTH)),
        draw(level),
    )


@given(case=exits_and_knobs())
def test_an_action_made_from_knobs_gives_the_knobs_back(case: tuple[int, Knobs]) -> None:
    exits, knobs = case
    encoder = Encoder(exits)
    action = encoder.action(knobs)
    assert action in encoder.action_space
    assert encoder.knobs(action) == knobs


@given(case=exits_and_knobs(st.floats(0, 1)))
def test_off_the_grid_thresholds_come_back_to_single_precision(case: tuple[int, Knobs]) -> None:
    exits, knobs = case
    back = Encoder(exits).knobs(Encoder(exits).action(knobs))
    assert (back.exit_index, back.draft_length) == (knobs.exit_index, knobs.draft_length)
    assert astuple(back) == pytest.approx(astuple(knobs), abs=1e-7)


def test_the_last_exit_may_be_named_minus_one() -> None:
    encoder = Encoder(4)
    assert encoder.knobs(encoder.action(Knobs(exit_index=-1))).exit_index == 3


@given(action=hnp.arrays(np.float32, 6, elements=st.floats(-1e6, 1e6, width=32)), exits=st.integers(1, 6))
def test_any_action_is_clipped_to_valid_knobs(action: np.ndarray, exits: int) -> None:
    encoder = Encoder(exits)
    knobs = encoder.knobs(action)
    assert knobs == encoder.knobs(np.clip(action, -1, 1))
    assert 0 <= knobs.exit_index < exits


def test_the_ends_of_the_action_space_are_the_ends_of_the_knobs() -> None:
    encoder = Encoder(3)
    assert encoder.knobs(-np.ones(6)) == Knobs(0.0, 0.0, 0, 0.0, 1, 0.0)
    assert encoder.knobs(np.ones(6)) == Knobs(1.0, 1.0, 2, 1.0, MAX_DRAFT_LENGTH, 1.0)


def test_exits_and_lengths_share_the_range_equally() -> None:
    encoder, actions = Encoder(4), np.zeros((4000, 6))
    actions[:] = np.linspace(-1, 1, 4000)[:, None]
    found = [encoder.knobs(a) for a in actions]
    assert set(np.bincount([k.exit_index for k in found])) == {1000}
    assert set(np.bincount([k.draft_length for k in found])[1:]) == {500}


@pytest.mark.parametrize("place", range(6))
def test_an_action_that_is_not_a_number_is_an_error(place: int) -> None:
    action = np.zeros(6, np.float32)
    action[place] = np.nan
    with pytest.raises(ValueError, match=r"nan|NaN"):
        Encoder(2).knobs(action)


# ---------------------------------------------------------------- schema


def test_the_schema_hash_follows_exits_features_and_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Encoder(2).schema_hash
    assert Encoder(2).schema_hash == first
    assert len({Encoder(n).schema_hash for n in range(1, 7)}) == 6
    monkeypatch.setattr(spaces, "FEATURES", (replace(FEATURES[0], high=2.0), *FEATURES[1:]))
    changed = Encoder(2).schema_hash
    monkeypatch.setattr(spaces, "FEATURES", FEATURES[:-1])
    assert len({first, changed, Encoder(2).schema_hash}) == 3


def test_every_feature_is_documented_once() -> None:
    assert len(set(NAMES)) == len(FEATURES)
    for feature in FEATURES:
        assert feature.unit
        assert feature.low < feature.high
        assert math.isfinite(feature.low)
        assert math.isfinite(feature.high)


def test_the_spaces_have_an_entry_for_each_feature_and_knob() -> None:
    encoder = Encoder(2)
    assert encoder.observation_space.shape == (len(FEATURES),)
    assert encoder.action_space.shape == (len(KNOB_NAMES),)
    assert encoder.observation_space.low.tolist() == pytest.approx([f.low for f in FEATURES])
    assert encoder.observation_space.high.tolist() == pytest.approx([f.high for f in FEATURES])


# ---------------------------------------------------------------- bounds

unit = st.floats(0, 1, width=32)
seconds = st.floats(0, 1e4)
some_tokens = st.builds(
    token,
    unit,
    exit_index=st.integers(0, 2),
    margin=unit,
    entropy=st.floats(0, 20),
    sketch=hnp.arrays(np.float32, 16, elements=st.floats(-8, 8, width=32)),
)
some_drafts = st.builds(Draft, st.lists(some_tokens, min_size=1, max_size=MAX_DRAFT_LENGTH).map(tuple), unit, seconds)
some_verdicts = st.builds(
    verdict,
    st.just(0),
    queue_seconds=seconds,
    compute_seconds=seconds,
    network_seconds=seconds,
    uplink_bytes=st.integers(0, 10**9),
    downlink_bytes=st.integers(0, 10**9),
    load=st.floats(0, 1e5),
)
some_records = st.lists(
    st.builds(record, some_drafts)
    | st.builds(record, some_drafts, some_verdicts)
    | st.builds(lambda d: record(d, error="lost"), some_drafts),
    max_size=6,
)
some_points = st.builds(
    point,
    some_drafts,
    offloaded=st.integers(0, 6),
    prompt_tokens=st.integers(1, 10**6),
    generated_tokens=st.integers(0, 100),
    max_new_tokens=st.integers(1, 10**4),
    probe_seconds=st.none() | seconds,
)
some_preferences = st.builds(Preference, *[st.floats(0, 1e9)] * 5)


@settings(max_examples=150, deadline=None)
@given(at=some_points, records=some_records, preference=some_preferences)
def test_every_observation_is_inside_the_space(at: DecisionPoint, records: list[StepRecord], preference: Preference) -> None:
    encoder = Encoder(3)
    observation = encoder.encode(at, records, preference)
    assert observation.dtype == np.float32
    assert np.isfinite(observation).all()
    assert encoder.observation_space.contains(observation)


# ---------------------------------------------------------------- what an observation says


def test_the_draft_in_hand_token_by_token() -> None:
    hand = Draft((token(0.9, 0, margin=0.8, entropy=0.1), token(0.4, 2, margin=0.2, entropy=2.0)), 0.7, 0.1)
    seen = encode(point(hand))
    wanted = {
        "draft_tokens": 2 / 8,
        "confidence_0": 0.9,
        "margin_0": 0.8,
        "entropy_0": 0.1,
        "confidence_1": 0.4,
        "margin_1": 0.2,
        "entropy_1": 2.0,
        "confidence_2": 1.0,
        "margin_7": 1.0,
        "entropy_7": 0.0,
        "least_confidence": 0.4,
        "importance": 0.7,
        "mean_exit": 0.5,
        "sketch_0": 0.0,
        "sketch_15": 3.75,
    }
    assert {name: seen[name] for name in wanted} == pytest.approx(wanted)


def test_an_slm_with_one_exit_has_a_mean_exit_of_zero() -> None:
    assert encode(point(), exits=1)["mean_exit"] == 0.0


def test_nothing_is_known_before_the_first_chunk_but_the_defaults() -> None:
    seen = encode(point())
    wanted = {
        **{
            f"past_{b}_{n}": v
            for b in range(1, HISTORY + 1)
            for n, v in (("confidence", 1), ("importance", 0), ("offloaded", 0), ("accepted", 1))
        },
        "acceptance": 0.5,
        "offload_rate": 0,
        "chunks": 0,
        "progress": 0,
        "prompt_tokens": 0.25,
        "rtt": -1,
        "rtt_known": 0,
        "throughput": 3,
        "queue": -3,
        "compute": -3,
        "load": 0,
        "cloud_lost": 0,
    }
    assert {name: seen[name] for name in wanted} == pytest.approx(wanted)


def test_the_last_chunks_newest_first() -> None:
    records = [
        record(draft((0.3,), importance=0.1), verdict(0)),
        record(draft((0.8, 0.6), importance=0.2)),
        record(draft(), verdict(1)),
    ]
    seen = encode(point(offloaded=2, generated_tokens=10), records)
    wanted = {
        "past_1_confidence": 0.5,
        "past_1_offloaded": 1,
        "past_1_accepted": 0.5,
        "past_2_confidence": 0.6,
        "past_2_importance": 0.2,
        "past_2_offloaded": 0,
        "past_2_accepted": 1,
        "past_3_confidence": 0.3,
        "past_3_accepted": 0,
        "acceptance": 0.7 * (0.7 * 0.5 + 0.3 * 0) + 0.3 * 0.5,
        "offload_rate": 2 / 3,
        "chunks": 3 / 16,
        "progress": 0.25,
    }
    assert {name: seen[name] for name in wanted} == pytest.approx(wanted)


def test_the_link_and_the_cloud_are_estimated_from_what_was_measured() -> None:
    assert encode(point(probe_seconds=0.1))["rtt"] == pytest.approx(-1.0)
    assert encode(point(probe_seconds=0.1))["rtt_known"] == 1
    kept = record()
    sent = record(None, verdict(1, network_seconds=0.2))
    seen = encode(point(probe_seconds=0.1), [sent, kept])
    wanted = {
        "rtt": math.log10(0.7 * 0.1 + 0.3 * 0.2),
        "throughput": math.log10(8 * 500 / 0.2),
        "queue": -2.0,
        "compute": math.log10(0.04),
        "load": 0.25,
        "cloud_lost": 0,
    }
    assert {name: seen[name] for name in wanted} == pytest.approx(wanted)
    again = encode(point(probe_seconds=0.1), [sent, record(None, verdict(1, network_seconds=0.4))])
    assert again["rtt"] == pytest.approx(math.log10(0.7 * (0.7 * 0.1 + 0.3 * 0.2) + 0.3 * 0.4))
    assert again["throughput"] == pytest.approx(math.log10(0.7 * 20_000 + 0.3 * 10_000))


@pytest.mark.parametrize(
    ("records", "lost"),
    [([record(error="x")], 1), ([record(error="x"), record()], 1), ([record(error="x"), record(None, verdict())], 0)],
)
def test_a_lost_cloud_shows_until_the_next_verdict(records: list[Any], lost: int) -> None:
    assert encode(point(), records)["cloud_lost"] == lost


def test_the_preference_is_seen_in_powers_of_ten() -> None:
    seen = encode(point(), preference=Preference(quality=1.0, latency=0.1, cost=100.0, energy=0.0, traffic=1e-9))
    assert [seen[f"weight_{n}"] for n in ("quality", "latency", "cost", "energy", "traffic")] == pytest.approx(
        [0, -1, 2, -6, -6]
    )
