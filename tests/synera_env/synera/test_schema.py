from __future__ import annotations

import math
from dataclasses import astuple, fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.session import Ahead
from runtime.synera.chunk import ChunkRecord, DecisionPoint, Draft
from runtime.synera.knobs import MAX_DRAFT_LENGTH, Knobs
from synera_env.reward import Preference
from synera_env.schema import Knob
from synera_env.synera.env import SyneraEnv
from synera_env.synera.schema import ALWAYS, HISTORY, NEVER, synera_schema
from tests.support.records import draft, point, record, token, verdict

NAMES = synera_schema(2).entries
KNOBS = len(synera_schema(2).rows)
grid = st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75, 0.875, 1.0])  # exact in the float32 of an action


def encode(
    at: DecisionPoint, records: list[ChunkRecord] | None = None, preference: Preference | None = None, exits: int = 3
) -> dict[str, float]:
    """The observation by feature name."""
    values = synera_schema(exits).encode(at, records or [], preference or Preference())
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
    schema = synera_schema(exits)
    action = schema.action(knobs)
    assert action in schema.action_space
    assert schema.knobs(action) == knobs


@given(case=exits_and_knobs(st.floats(0, 1)))
def test_off_the_grid_thresholds_come_back_to_single_precision(case: tuple[int, Knobs]) -> None:
    exits, knobs = case
    back = synera_schema(exits).knobs(synera_schema(exits).action(knobs))
    assert (back.exit_index, back.draft_length) == (knobs.exit_index, knobs.draft_length)
    assert astuple(back) == pytest.approx(astuple(knobs), abs=1e-7)


def test_the_last_exit_may_be_named_minus_one() -> None:
    schema = synera_schema(4)
    assert schema.knobs(schema.action(Knobs(exit_index=-1))).exit_index == 3


@given(action=hnp.arrays(np.float32, KNOBS, elements=st.floats(-1e6, 1e6, width=32)), exits=st.integers(1, 6))
def test_any_action_is_clipped_to_valid_knobs(action: np.ndarray, exits: int) -> None:
    schema = synera_schema(exits)
    knobs = schema.knobs(action)
    assert knobs == schema.knobs(np.clip(action, -1, 1))
    assert 0 <= knobs.exit_index < exits


def test_the_ends_of_the_action_space_are_the_ends_of_the_knobs() -> None:
    schema = synera_schema(3)
    lowest, highest = schema.knobs(-np.ones(KNOBS)), schema.knobs(np.ones(KNOBS))
    assert (lowest.exit_index, lowest.draft_length) == (0, 1)
    assert (highest.exit_index, highest.draft_length) == (2, MAX_DRAFT_LENGTH)
    for row in schema.rows:
        assert (getattr(lowest, row.name), getattr(highest, row.name)) == (row.low, row.high)


def test_exits_and_lengths_share_the_range_equally() -> None:
    schema, actions = synera_schema(4), np.zeros((4000, KNOBS))
    actions[:] = np.linspace(-1, 1, 4000)[:, None]
    found = [schema.knobs(a) for a in actions]
    assert set(np.bincount([k.exit_index for k in found])) == {1000}
    assert set(np.bincount([k.draft_length for k in found])[1:]) == {500}


@pytest.mark.parametrize("place", range(KNOBS))
def test_an_action_that_is_not_a_number_is_an_error(place: int) -> None:
    action = np.zeros(KNOBS, np.float32)
    action[place] = np.nan
    with pytest.raises(ValueError, match=r"nan|NaN"):
        synera_schema(2).knobs(action)


# ---------------------------------------------------------------- rows


def test_the_knobs_are_the_rows() -> None:
    rows = synera_schema(3).rows
    assert {row.name for row in rows} == {f.name for f in fields(Knobs)}
    assert synera_schema(3).first_knobs == Knobs()


@pytest.mark.parametrize("row", synera_schema(3).rows, ids=lambda row: row.name)
def test_a_row_s_bounds_are_those_that_the_knobs_take(row: Knob) -> None:
    for value in (row.low, row.high, *row.grid):
        assert getattr(Knobs(**{row.name: value}), row.name) == value
    if row.name != "exit_index":  # its upper bound is the SLM's, -1 its last
        for value in (row.low - 1, row.high + 1):
            with pytest.raises(ValueError, match=row.name):
                Knobs(**{row.name: value})


def test_the_schema_differs_by_the_number_of_exits() -> None:
    assert synera_schema(2).hash == synera_schema(2).hash
    assert len({synera_schema(n).hash for n in range(1, 7)}) == 6


def test_every_feature_is_documented_once() -> None:
    features = synera_schema(2).features
    assert len(set(NAMES)) == sum(f.size for f in features)
    for feature in features:
        assert feature.unit
        assert feature.meaning
        assert feature.low < feature.high
        assert math.isfinite(feature.low)
        assert math.isfinite(feature.high)


def test_the_class_docstring_holds_the_tables() -> None:
    """Made of the rows, so that a row is all that is needed."""
    text, schema = SyneraEnv.__doc__ or "", synera_schema(2)
    assert schema.knob_table() in text
    assert schema.feature_table() in text
    assert "_TABLE" not in text


def test_the_grid_holds_every_exit_and_both_extremes() -> None:
    grid = synera_schema(3).grid()
    assert {k.exit_index for k in grid} >= {0, 1, 2}
    assert NEVER in grid
    assert ALWAYS in grid
    assert len({str(k) for k in grid}) == len(grid)


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
def test_every_observation_is_inside_the_space(at: DecisionPoint, records: list[ChunkRecord], preference: Preference) -> None:
    schema = synera_schema(3)
    observation = schema.encode(at, records, preference)
    assert observation.dtype == np.float32
    assert np.isfinite(observation).all()
    assert schema.observation_space.contains(observation)


# ---------------------------------------------------------------- what an observation says


def test_the_draft_in_hand_token_by_token() -> None:
    hand = Draft((token(0.9, 0, margin=0.8, entropy=0.1), token(0.4, 2, margin=0.2, entropy=2.0)), 0.7, 0.1)
    seen = encode(point(hand))
    wanted = {
        "draft_tokens": 2 / 8,
        "confidence[0]": 0.9,
        "margin[0]": 0.8,
        "entropy[0]": 0.1,
        "confidence[1]": 0.4,
        "margin[1]": 0.2,
        "entropy[1]": 2.0,
        "confidence[2]": 1.0,
        "margin[7]": 1.0,
        "entropy[7]": 0.0,
        "least_confidence": 0.4,
        "importance": 0.7,
        "mean_exit": 0.5,
        "sketch[0]": 0.0,
        "sketch[15]": 3.75,
    }
    assert {name: seen[name] for name in wanted} == pytest.approx(wanted)


def test_an_slm_with_one_exit_has_a_mean_exit_of_zero() -> None:
    assert encode(point(), exits=1)["mean_exit"] == 0.0


def test_nothing_is_known_before_the_first_chunk_but_the_defaults() -> None:
    seen = encode(point())
    wanted = {
        **{
            f"past_{n}[{b}]": v
            for b in range(HISTORY)
            for n, v in (("confidence", 1), ("importance", 0), ("offloaded", 0), ("accepted", 1))
        },
        "acceptance": 0.5,
        "guess_hits": 0.5,
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


def ahead(hit: bool) -> Ahead:
    return Ahead((1, 2), 0.5, hit, drafted=2, kept=int(hit), seconds=0.1, saved_seconds=0.0, wasted_joules=0.0)


def test_the_last_chunks_newest_first() -> None:
    records = [
        record(draft((0.3,), importance=0.1), verdict(0), ahead=ahead(False)),
        record(draft((0.8, 0.6), importance=0.2)),
        record(draft(), verdict(1), ahead=ahead(True)),
    ]
    seen = encode(point(offloaded=2, generated_tokens=10), records)
    wanted = {
        "past_confidence[0]": 0.5,
        "past_offloaded[0]": 1,
        "past_accepted[0]": 0.5,
        "past_confidence[1]": 0.6,
        "past_importance[1]": 0.2,
        "past_offloaded[1]": 0,
        "past_accepted[1]": 1,
        "past_confidence[2]": 0.3,
        "past_accepted[2]": 0,
        "acceptance": 0.7 * (0.7 * 0.5 + 0.3 * 0) + 0.3 * 0.5,
        "guess_hits": 0.7 * (0.7 * 0.5 + 0.3 * 0) + 0.3 * 1,
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
    seen = encode(point(), preference=Preference(quality=1.0, latency=0.1, cost=100.0, energy=0.05, traffic=1.0))
    assert [seen[f"weight_{n}"] for n in ("quality", "latency", "cost", "energy", "traffic")] == pytest.approx(
        [0, -1, 2, math.log10(0.05), 0]
    )


@pytest.mark.parametrize(("times", "decades"), [(0.0, -2), (1e-9, -2), (0.01, -2), (0.1, -1), (10.0, 1), (1e9, 2)])
def test_a_weight_far_from_its_default_is_seen_as_a_hundredth_or_a_hundred_times_it(times: float, decades: int) -> None:
    seen = encode(point(), preference=Preference(*(times * weight for weight in astuple(Preference()))))
    for f in fields(Preference):
        assert seen[f"weight_{f.name}"] == pytest.approx(math.log10(f.default) + decades)  # type: ignore[arg-type]


# ---------------------------------------------------------------- scales


def test_every_feature_has_the_scale_of_what_occurs() -> None:
    """Fixed, so that one which training seldom varies is not blown up when it moves."""
    schema, place = synera_schema(2), {name: i for i, name in enumerate(NAMES)}
    wanted = {
        "confidence[3]": (0.5, 0.5),
        "entropy[0]": (0.5, 1.0),
        "sketch[9]": (0.0, 1.0),
        "past_offloaded[1]": (0.5, 0.5),
        "chunks": (0.5, 0.5),
        "prompt_tokens": (0.25, 0.5),
        "rtt": (-1.0, 1.0),
        "throughput": (4.5, 1.0),
        "queue": (-2.0, 1.0),
        "compute": (-2.0, 1.0),
        "load": (0.25, 0.5),
        "cloud_lost": (0.5, 0.5),
        "weight_latency": (-1.0, math.log10(3)),
    }
    for name, (center, scale) in wanted.items():
        assert (schema.center[place[name]], schema.scale[place[name]]) == pytest.approx((center, scale)), name


def test_a_weight_of_nothing_is_shown_to_a_network_as_no_absurd_number() -> None:
    schema = synera_schema(2)
    nothing = schema.encode(point(), [], Preference(0.0, 0.0, 0.0, 0.0, 0.0))
    shown = (nothing - schema.center) / schema.scale
    assert np.abs(shown[-5:]).max() < 5
