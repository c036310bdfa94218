from __future__ import annotations

import json
import os
from dataclasses import asdict, fields, replace
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
    FitError,
    draft_seconds,
    energy_joules,
    forward_seconds,
    interpolated_quantile,
    segment_ms,
)

PHONE = DeviceProfile("phone", "made up", 1.0, 7.0, 0.5, 2.0, busy_watts=6.0, wait_watts=1.0, radio_joules_per_mb=5.0)
FIT = FitError("all", 7, 0.99, 0.01, 0.03)
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


def test_how_well_it_fits_is_kept_and_older_files_have_none(tmp_path: Path) -> None:
    fitted = replace(GPU, fit=(FIT, replace(FIT, group="few", r_squared=None)))
    fitted.save(tmp_path / "new.json")
    assert CloudProfile.load(tmp_path / "new.json") == fitted
    older = fields_of(PHONE)
    del older["fit"]
    (tmp_path / "old.json").write_text(json.dumps(older))
    assert DeviceProfile.load(tmp_path / "old.json") == PHONE
    assert PHONE.fit == ()


RISING = "must be a rising list"
WRONG: list[tuple[Any, Any, str]] = [
    (DeviceProfile, fields_of(PHONE, layr_ms=3.0), "layr_ms: Unexpected keyword argument"),
    (DeviceProfile, fields_of(GPU), "Unexpected keyword argument|Field required"),
    (DeviceProfile, {"name": "x", "source": "y"}, r"is not a DeviceProfile: call_ms: .*required \(and 3 more\)"),
    (DeviceProfile, fields_of(PHONE, layer_ms=-1.0), r"layer_ms: .* greater than or equal to 0, not -1\.0"),
    (DeviceProfile, fields_of(PHONE, layer_ms=1e308), r"layer_ms: .* less than or equal to 1000000, not 1e\+308"),
    (DeviceProfile, fields_of(PHONE, head_ms=float("nan")), "head_ms: .*finite number, not nan"),
    (DeviceProfile, fields_of(PHONE, wait_watts=float("inf")), "wait_watts: .*finite number, not inf"),
    (DeviceProfile, fields_of(PHONE, busy_watts=10**400), "busy_watts: .*finite number, not 1000"),
    (DeviceProfile, fields_of(PHONE, busy_watts=20_000), "busy_watts: .* 10000, not 20000"),
    (DeviceProfile, fields_of(PHONE, radio_joules_per_mb=1e7), r"radio_joules_per_mb: .*, not 10000000\.0"),
    (DeviceProfile, fields_of(PHONE, call_ms="1.0"), r"call_ms: .*valid number, not '1\.0'"),
    (DeviceProfile, fields_of(PHONE, call_ms=True), "call_ms: .*valid number, not True"),
    (DeviceProfile, fields_of(PHONE, call_ms=None), "call_ms: .*valid number, not None"),
    (DeviceProfile, fields_of(PHONE, call_ms=[1.0, 2.0]), r"call_ms: .*valid number, not \[1\.0, 2\.0\]"),
    (DeviceProfile, fields_of(PHONE, call_ms={"a": {"b": 1}}), "call_ms: .*valid number"),
    (DeviceProfile, fields_of(PHONE, name=""), "name: .*at least 1 character"),
    (DeviceProfile, fields_of(PHONE, name=7), "name: .*valid string, not 7"),
    (DeviceProfile, fields_of(PHONE, name="x" * 201), "name: .*at most 200 characters"),
    (DeviceProfile, fields_of(PHONE, source="x" * 5000), "source: .*at most 2000 characters"),
    (CloudProfile, fields_of(GPU, token_ms=-0.1), r"token_ms: .*not -0\.1"),
    (CloudProfile, fields_of(GPU, forward_ms=1e300), r"forward_ms: .* less than or equal to 1000000, not 1e\+300"),
    (CloudProfile, fields_of(GPU, token_ms=1e300), r"token_ms: .* less than or equal to 1000000, not 1e\+300"),
    (CloudProfile, fields_of(GPU, queue_ms_quantiles=[0.0, 1e300]), r"queue_ms_quantiles\.1: .*not 1e\+300"),
    (CloudProfile, fields_of(GPU, load_quantiles=[0.0, 1e300]), r"load_quantiles\.1: .*not 1e\+300"),
    (CloudProfile, fields_of(GPU, queue_ms_quantiles=[]), "queue_ms_quantiles: .*at least 1 item"),
    (CloudProfile, fields_of(GPU, queue_ms_quantiles=[0.0] * 20_000), "queue_ms_quantiles: .*at most 10001 items"),
    (CloudProfile, fields_of(GPU, queue_ms_quantiles=[2.0, 1.0]), rf"queue_ms_quantiles=\(2\.0, 1\.0\) {RISING}"),
    (CloudProfile, fields_of(GPU, load_quantiles=[2.0, 1.0]), rf"load_quantiles=\(2\.0, 1\.0\) {RISING}"),
    (CloudProfile, fields_of(GPU, queue_ms_quantiles=[-2.0, 1.0]), r"queue_ms_quantiles\.0: .*not -2\.0"),
    (CloudProfile, fields_of(GPU, queue_ms_quantiles=[0.0, float("nan")]), r"queue_ms_quantiles\.1: .*finite"),
    (CloudProfile, fields_of(GPU, queue_ms_quantiles=["1", "2"]), r"queue_ms_quantiles\.0: .*valid number, not '1'"),
    (CloudProfile, fields_of(GPU, queue_ms_quantiles=5.0), r"queue_ms_quantiles: .*valid array, not 5\.0"),
    (CloudProfile, fields_of(GPU, fit=[{"group": "all"}]), r"fit\.0"),
    (CloudProfile, fields_of(GPU, fit=[asdict(FIT) | {"points": 0}]), r"fit\.0.*not 0"),
    (CloudProfile, fields_of(GPU, fit=[asdict(FIT) | {"p95_relative_error": -0.1}]), r"fit\.0.*not -0\.1"),
    (DeviceProfile, fields_of(PHONE, fit=3), "fit: .*valid array, not 3"),
    (CloudProfile, [1, 2], "is not a CloudProfile: Input should be an object"),
    (CloudProfile, 3, "is not a CloudProfile: Input should be an object"),
    (CloudProfile, None, "is not a CloudProfile: Input should be an object"),
]


@pytest.mark.parametrize(("kind", "stated", "message"), WRONG)
def test_a_profile_that_makes_no_sense_is_named(kind: Any, stated: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(stated))
    with pytest.raises(TraceError, match=message) as error:
        kind.load(path)
    assert str(error.value).startswith(f"{path} is not a {kind.__name__}: ")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(("kind", "stated"), [(k, s) for k, s, m in WRONG if isinstance(s, dict) and len(s) > 5])
def test_a_profile_made_by_hand_is_held_to_the_same(kind: Any, stated: dict[str, Any]) -> None:
    made = {name: tuple(value) if isinstance(value, list) else value for name, value in stated.items()}
    with pytest.raises((TraceError, TypeError)) as error:
        kind(**made)
    known = {f.name for f in fields(kind)}
    assert isinstance(error.value, TraceError) == (set(made) == known), "only an unknown argument is Python's own mistake"


def test_the_ends_of_the_ranges_are_allowed() -> None:
    ends = DeviceProfile("x", "", 0, 1e6, 0.0, 1e6, busy_watts=1e4, wait_watts=0, radio_joules_per_mb=1e6)
    assert ends.draft_seconds([Segment(0, 0, 4, 0, 100)], 1) == pytest.approx((4e6 + 1e6) / 1e3)
    assert CloudProfile("x", "", np.float64(1e6), np.float32(0)).forward_seconds(3) == pytest.approx(1e3)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["busy_watts", "wait_watts", "radio_joules_per_mb"])
def test_a_profile_has_energy_where_it_states_any(name: str) -> None:
    none = DeviceProfile("x", "made up", 1.0, 7.0, 0.5, 2.0)
    assert not none.has_energy
    assert none.joules(1.0, 1.0, 10**6) == 0.0
    some = replace(none, **{name: 0.5})
    assert some.has_energy
    assert some.joules(1.0, 1.0, 10**6) == pytest.approx(0.5)


@pytest.mark.parametrize("content", [b"", b"{", b"\x80\x81", b"[" * 100_000, b'{"forward_ms": ' + b"1" * 10_000 + b"}"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=r"profile\.json is not a CloudProfile"):
        CloudProfile.load(path)


def test_a_missing_file_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no profile at .*none\.json; measure one with: synera measure-profiles"):
        DeviceProfile.load(tmp_path / "none.json")


def test_what_is_not_a_file_is_not_read(tmp_path: Path) -> None:
    """A device or a pipe might never end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(TraceError, match=r"cannot be read: it is not a regular file"):
            DeviceProfile.load(path)
    for path, reason in ((tmp_path / "file" / "x", "Not a directory"), (tmp_path / ("n" * 300), "File name too long")):
        with pytest.raises(TraceError, match=f"cannot be read: {reason}"):
            DeviceProfile.load(path)


def test_a_file_of_a_size_that_makes_no_sense_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    with path.open("wb") as opened:
        opened.truncate(10 * 2**30)  # without a byte on the disk
    with pytest.raises(TraceError, match=r"profile\.json cannot be read: it has 10737418240 bytes, and at most"):
        DeviceProfile.load(path)
