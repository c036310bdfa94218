from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.model.exits import ExitLedger, Segment
from traces.errors import TraceError
from traces.profile import (
    CloudProfile,
    DeviceProfile,
    draft_seconds,
    energy_joules,
    forward_seconds,
    interpolated_quantile,
    segment_ms,
)

PHONE = DeviceProfile("phone", "made up", 1.0, 7.0, 0.5, 2.0, busy_watts=6.0, wait_watts=1.0, radio_joules_per_mb=5.0)
GPU = CloudProfile("gpu", "made up", 30.0, 0.05, (0.0, 1.0, 3.0, 9.0))


def fields_of(profile: DeviceProfile | CloudProfile, **changes: Any) -> dict[str, Any]:
    return asdict(profile) | changes


# ---------------------------------------------------------------- costs


def test_one_position_costs_its_layers_and_its_head() -> None:
    assert PHONE.draft_seconds([Segment(0, 0, 2, 9, 10)], 1) == pytest.approx((1 + 2 * 7 + 2) / 1e3)
    assert PHONE.draft_seconds([Segment(0, 0, 2, 9, 10), Segment(1, 2, 4, 9, 10)], 2) == pytest.approx(
        (1 + 4 * 7 + 2 * 2) / 1e3
    )


def test_further_positions_of_a_batch_cost_their_arithmetic_alone() -> None:
    prompt = Segment(0, 0, 2, 0, 11)
    assert PHONE.draft_seconds([prompt], 1) == pytest.approx((1 + 2 * (7 + 10 * 0.5) + 2) / 1e3)
    assert PHONE.draft_seconds([prompt, Segment(1, 2, 4, 7, 11)], 1) == pytest.approx(
        (1 + 2 * 12 + 2 * (7 + 3 * 0.5) + 2) / 1e3
    )


@given(length=st.integers(1, 50), more=st.integers(0, 50), exit_index=st.integers(0, 1))
def test_completing_late_costs_the_same_layers_in_fewer_batches(length: int, more: int, exit_index: int) -> None:
    """What a shallow exit saves is not lost: the missing layers are charged when they are run."""
    deep, shallow = ExitLedger((2, 4)), ExitLedger((2, 4))
    at_once = PHONE.draft_seconds(list(deep.segments(length, 1)), 0)
    in_two = PHONE.draft_seconds(list(shallow.segments(length, 0)), 0) + PHONE.draft_seconds(
        list(shallow.segments(length, 1)), 0
    )
    assert in_two == pytest.approx(at_once + PHONE.call_ms / 1e3)
    assert PHONE.draft_seconds(list(deep.segments(length + more, exit_index)), 0) >= PHONE.call_ms / 1e3


def test_energy_is_power_by_time_and_radio_by_bytes() -> None:
    assert PHONE.joules(0.5, 2.0, 400_000) == pytest.approx(6 * 0.5 + 1 * 2.0 + 5 * 0.4)
    assert PHONE.joules(0.0, 0.0, 0) == 0.0


def test_a_forward_costs_its_tokens() -> None:
    assert GPU.forward_seconds(0) == pytest.approx(0.030)
    assert GPU.forward_seconds(40) == pytest.approx(0.032)


def test_the_queue_is_read_off_its_quantiles() -> None:
    waits = [GPU.queue_seconds(u) for u in (0.0, 1 / 6, 1 / 3, 0.5, 2 / 3, 1.0)]
    assert waits == pytest.approx([0.0, 0.0005, 0.001, 0.002, 0.003, 0.009])
    assert replace(GPU, queue_ms_quantiles=(4.0,)).queue_seconds(0.3) == pytest.approx(0.004)
    assert CloudProfile("idle", "made up", 1.0, 0.0).queue_seconds(0.9) == 0.0


def test_drawn_waits_have_the_recorded_distribution() -> None:
    measured = np.random.default_rng(0).exponential(5.0, 4000)
    cloud = replace(GPU, queue_ms_quantiles=tuple(np.quantile(measured, np.linspace(0, 1, 41)).tolist()))
    drawn = [1e3 * cloud.queue_seconds(u) for u in np.random.default_rng(1).random(4000)]
    assert np.quantile(drawn, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(measured, [0.1, 0.5, 0.9]), rel=0.1)


# ---------------------------------------------------------------- formulas, to the last bit


def test_the_formulas_by_hand() -> None:
    """Values that floats hold exactly."""
    assert segment_ms(2, 1, 7.0, 0.5) == 14.0
    assert segment_ms(3, 11, 7.0, 0.5) == 36.0
    assert draft_seconds(1.0, 14.0 + 36.0, 2, 2.0) == 0.055
    assert energy_joules(6.0, 1.0, 5.0, 0.5, 2.0, 400_000) == 7.0
    assert forward_seconds(30.0, 0.05, 40) == 0.032
    assert interpolated_quantile((0.0, 1.0, 3.0), 0.75) == 2.0


def test_the_sums_keep_their_order() -> None:
    """A simulated time is the same to the last bit whoever computes it; in any other order these sums end differently."""
    device = DeviceProfile("d", "made up", 0.3, 0.3, 0.7, 0.3, busy_watts=0.1, wait_watts=0.2, radio_joules_per_mb=0.3)
    ran = [Segment(0, 0, 2, 9, 10), Segment(1, 2, 5, 7, 10)]  # 2 layers over 1 position, 3 layers over 3
    assert device.draft_seconds(ran, 3) == 0.006899999999999998
    assert device.draft_seconds(ran, 3) == (0.3 + (2 * 0.3 + 3 * (0.3 + 2 * 0.7)) + 3 * 0.3) / 1e3
    assert (0.3 + 2 * 0.3 + 3 * (0.3 + 2 * 0.7) + 3 * 0.3) / 1e3 == 0.006900000000000001
    assert device.joules(1.0, 1.0, 1_000_000) == 0.1 + 0.2 + 0.3 == 0.6000000000000001
    assert 0.3 + 0.2 + 0.1 == 0.6


@given(values=st.lists(st.floats(0, 1e4), min_size=1, max_size=60).map(sorted), uniform=st.floats(0, 1), data=st.data())
def test_quantiles_are_numpys_interpolation(values: list[float], uniform: float, data: st.DataObject) -> None:
    knot = data.draw(st.integers(0, len(values))) / max(len(values) - 1, 1)
    for u in (uniform, min(knot, 1.0), float(np.nextafter(min(knot, 1.0), 0)), min(float(np.nextafter(knot, 2)), 1.0)):
        expected = float(np.interp(u, np.linspace(0, 1, len(values)), values))
        assert interpolated_quantile(values, u) == pytest.approx(expected, rel=1e-15, abs=0)


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("profile", [PHONE, GPU], ids=["device", "cloud"])
def test_what_is_loaded_is_what_was_saved(profile: DeviceProfile | CloudProfile, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "profile.json"
    profile.save(path)
    assert type(profile).load(str(path)) == profile
    assert [p.name for p in path.parent.iterdir()] == ["profile.json"]


@pytest.mark.parametrize(
    ("kind", "stated", "message"),
    [
        (DeviceProfile, fields_of(PHONE, layr_ms=3.0), r"unknown fields \['layr_ms'\]; a DeviceProfile has \['busy_watts'"),
        (DeviceProfile, fields_of(GPU), "unknown fields"),
        (DeviceProfile, {"name": "x", "source": "y"}, "is not a DeviceProfile: .*missing"),
        (DeviceProfile, fields_of(PHONE, layer_ms=-1.0), r"layer_ms=-1.0 must be a number that is not negative"),
        (DeviceProfile, fields_of(PHONE, head_ms=float("nan")), "head_ms=nan"),
        (DeviceProfile, fields_of(PHONE, wait_watts=float("inf")), "wait_watts=inf"),
        (DeviceProfile, fields_of(PHONE, call_ms="1.0"), "call_ms='1.0' must be a number"),
        (DeviceProfile, fields_of(PHONE, call_ms=None), "call_ms=None must be a number"),
        (DeviceProfile, fields_of(PHONE, call_ms=[1.0, 2.0]), "call_ms="),
        (CloudProfile, fields_of(GPU, token_ms=-0.1), "token_ms=-0.1"),
        (CloudProfile, fields_of(GPU, queue_ms_quantiles=[]), r"queue_ms_quantiles=\(\) must be a rising list"),
        (CloudProfile, fields_of(GPU, queue_ms_quantiles=[2.0, 1.0]), "must be a rising list"),
        (CloudProfile, fields_of(GPU, queue_ms_quantiles=[-2.0, 1.0]), "queue_ms_quantiles="),
        (CloudProfile, fields_of(GPU, queue_ms_quantiles=[0.0, float("nan")]), "queue_ms_quantiles="),
        (CloudProfile, fields_of(GPU, queue_ms_quantiles=["1", "2"]), "queue_ms_quantiles="),
        (CloudProfile, fields_of(GPU, queue_ms_quantiles=5.0), "queue_ms_quantiles|is not a CloudProfile"),
        (CloudProfile, [1, 2], "unknown fields|is not a CloudProfile"),
        (CloudProfile, 3, "is not a CloudProfile"),
    ],
)
def test_a_profile_that_makes_no_sense_is_named(kind: Any, stated: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(stated))
    with pytest.raises(TraceError, match=message) as error:
        kind.load(path)
    assert "profile.json" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\x80\x81"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=r"profile\.json is not a CloudProfile"):
        CloudProfile.load(path)


def test_a_missing_file_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no profile at .*none\.json; measure one with: synera measure-profiles"):
        DeviceProfile.load(tmp_path / "none.json")


def test_a_profile_made_by_hand_is_held_to_the_same() -> None:
    with pytest.raises(TraceError, match="layer_ms=-7"):
        replace(PHONE, layer_ms=-7)
