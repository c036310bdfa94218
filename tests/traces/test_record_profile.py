"""Measured profiles: a fit to timings that are made up, and what a real measurement says of itself."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from runtime.model.loading import load_decoder
from tests.support.placements import FLOAT32_AND_BFLOAT16, named
from traces import record_profile
from traces.profile import CloudProfile, DeviceProfile
from traces.record_profile import measure_cloud, measure_device

METER = DeviceProfile(
    "a phone with a meter", "made up", 1.0, 1.0, 1.0, 1.0, busy_watts=3.0, wait_watts=0.5, radio_joules_per_mb=2
)


@pytest.mark.parametrize("where", FLOAT32_AND_BFLOAT16)
def test_a_measured_profile_is_usable_and_says_what_was_measured(
    where: str, tiny_slm: Path, tiny_llm: Path, tmp_path: Path
) -> None:
    placement = named(where)
    device, device_fit = measure_device(load_decoder(tiny_slm, placement), "mine", METER, repetitions=1)
    cloud, cloud_fit = measure_cloud(load_decoder(tiny_llm, placement), "yours", repetitions=1)
    for profile, fit, kind in ((device, device_fit, DeviceProfile), (cloud, cloud_fit, CloudProfile)):
        assert f", hidden 32, {placement.dtype} on " in profile.source
        assert ("the CPU" in profile.source) == (placement.device == "cpu")
        assert math.isfinite(fit.mean_relative_error)
        profile.save(tmp_path / "profile.json")
        assert kind.load(tmp_path / "profile.json") == profile
    assert device.head_ms > 0
    assert cloud.forward_ms + cloud.token_ms > 0
    assert (device_fit.points, cloud_fit.points) == (2 * 6 + 1, 7)  # a point for each depth, batch and head


def test_the_fit_finds_the_costs_behind_the_timings() -> None:
    rows = [[1.0, layers, layers * (n - 1), 0.0] for layers in (1, 2, 4) for n in (1, 4, 16)] + [[0.0, 0.0, 0.0, 1.0]]
    costs = [0.5, 2.0, 0.125, 0.75]
    taken = [sum(a * b for a, b in zip(row, costs, strict=True)) for row in rows]
    found = record_profile._fit(rows, taken)
    assert found == pytest.approx(costs, abs=1e-3)
    assert record_profile._quality(rows, taken, found).mean_relative_error < 1e-3


def test_a_measured_profile_takes_its_energy_from_another_and_says_so(tiny_slm: Path) -> None:
    """It cannot be measured; with none, energy would leave the reward in silence."""
    device, _ = measure_device(load_decoder(tiny_slm), "mine", METER, repetitions=1)
    assert (device.busy_watts, device.wait_watts, device.radio_joules_per_mb) == (3.0, 0.5, 2)
    assert device.has_energy
    assert "Energy is not measured" in device.source
    assert "of the profile 'a phone with a meter'" in device.source
