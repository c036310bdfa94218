"""Measured profiles: what a real measurement says of itself."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from runtime.model.loading import load_decoder
from tests.support.placements import FLOAT32_AND_BFLOAT16, named
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
    device = measure_device(load_decoder(tiny_slm, placement), "mine", METER, repetitions=1)
    cloud = measure_cloud(load_decoder(tiny_llm, placement), "yours", repetitions=1)
    profiles: tuple[tuple[DeviceProfile | CloudProfile, type[DeviceProfile | CloudProfile]], ...]
    profiles = ((device, DeviceProfile), (cloud, CloudProfile))
    for profile, kind in profiles:
        assert f", hidden 32, {placement.dtype} on " in profile.source
        assert ("the CPU" in profile.source) == (placement.device == "cpu")
        assert all(math.isfinite(each.mean_relative_error) for each in profile.fit)
        profile.save(tmp_path / "profile.json")
        assert kind.load(tmp_path / "profile.json") == profile
    assert device.head_ms > 0
    assert cloud.forward_ms + cloud.token_ms > 0
    assert [each.points for each in device.fit] == [2 * 6 + 1, 2, 2 * 5, 1]  # a point for each depth, batch and head
    assert [each.points for each in cloud.fit] == [7, 4, 3]
    assert device.fit[-1].group == "head (head_ms)"
    assert device.fit[-1].r_squared is None, "one timing does not vary"


def test_a_measured_profile_takes_its_energy_from_another_and_says_so(tiny_slm: Path) -> None:
    """It cannot be measured; with none, energy would leave the reward in silence."""
    device = measure_device(load_decoder(tiny_slm), "mine", METER, repetitions=1)
    assert (device.busy_watts, device.wait_watts, device.radio_joules_per_mb) == (3.0, 0.5, 2)
    assert device.has_energy
    assert "Energy is not measured" in device.source
    assert "of the profile 'a phone with a meter'" in device.source
