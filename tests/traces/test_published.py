"""Profiles of published figures: rules by hand on figures that are made up, and the bundled ones made again from the real ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.public_data import public_data
from tests.support.published_figures import published_figures
from traces import bundled
from traces.errors import TraceError
from traces.profile import CloudProfile, DeviceProfile
from traces.published import published, published_clouds, published_devices, with_background


def test_a_device_decodes_and_reads_as_fast_as_is_stated(tmp_path: Path) -> None:
    first, other = published_devices(published_figures(tmp_path))
    assert (first.name, other.name) == ("samsung-galaxy-s25-ultra-qwen2.5-1.5b-q4-k-m", "another-qwen2.5-1.5b-q4-k-m")
    assert first.call_ms + 4 * first.layer_ms + first.head_ms == pytest.approx(40.0, abs=0.01)
    assert first.head_ms / 40.0 == pytest.approx(0.233 / 1.544, abs=1e-3)
    assert 4 * first.position_ms == pytest.approx(10.0)
    assert (first.busy_watts, first.wait_watts) == (10.0, pytest.approx(3.0 - 2.3525, abs=1e-3))
    assert first.radio_joules_per_mb == pytest.approx(0.032 * 8)
    assert 4 * other.position_ms == pytest.approx(20.0)
    assert "x/y: a notebook" in first.source
    assert "stand-in" not in first.source
    assert "as fitted for the Samsung Galaxy S25 Ultra, a stand-in" in other.source


def test_a_cloud_s_forwards_are_fitted_with_their_error(tmp_path: Path) -> None:
    rows = (
        "m,h,512,1,128,1,1,50,30,1,2\nm,h,512,1,128,1,1,54,32,1,2\nm,h,512,1,128,1,1,99,31,1,2\nm,h,512,4,128,1,1,999,33,1,2\n"
    )
    rows += "m,h,4096,1,128,1,1,5000,31,1,2\nn,h,512,1,128,1,1,50,30,1,2\n"
    served, timed = published_clouds(published_figures(tmp_path, rows=rows))
    assert (served.name, served.forward_ms, served.token_ms) == ("llama-3.1-70b-instruct-h100-x4", 15.0, pytest.approx(0.1))
    assert served.fit[0].p95_relative_error < 1e-6
    assert "page" in served.source
    assert timed.name == "m-h-x2", "n has too few"
    assert [(each.group, each.points) for each in timed.fit] == [("all", 3), ("decoding", 2), ("reading", 1)]
    assert timed.forward_ms + 512 * timed.token_ms == pytest.approx(54, rel=0.05), "the median of its repetitions"


def test_others_keep_a_derived_cloud_busy() -> None:
    quiet, busy = (with_background(CloudProfile("g", "made up", 20.0, 0.1), rate) for rate in (0.05, 1.0))
    for cloud in (quiet, busy):
        assert len(cloud.queue_ms_quantiles) == len(cloud.load_quantiles) == 101
        assert cloud.queue_ms_quantiles[0] == 0.0
    assert quiet.queue_ms_quantiles[50] < busy.queue_ms_quantiles[50]
    assert quiet.load_quantiles[50] < busy.load_quantiles[50]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda n: n.pop("device_decode"), "device_decode"),
        (lambda n: n.update(radio_power_linear_fit=[]), "no power is stated of the radio NSALow uplink"),
        (lambda n: n["device_energy_fit"].update(b_W="much"), "b_W='much'"),
        (lambda n: n["device_decode"][0].update(decode_tok_s=0), "decode_tok_s=0 of Samsung"),
        (lambda n: n["device_decode"].pop(0), "has no figures of samsung-galaxy-s25-ultra"),
        (lambda n: n.update(cloud_serving=n["cloud_serving"][:2]), "has no figures of llama-3.1-70b-instruct-h100-x4"),
    ],
)
def test_figures_that_are_missing_or_make_no_sense_are_named(
    change: Callable[[dict[str, Any]], Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(TraceError, match=said):
        published(published_figures(tmp_path, change))


def test_a_row_that_is_no_timing_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"perf_model\.csv, line 2: it is no timing"):
        published(published_figures(tmp_path, rows="m,h,512,one,128,1,1,50,30,1,2\n"))
    with pytest.raises(TraceError, match=r"no device_cloud_numbers\.json in"):
        published(tmp_path / "nowhere")


def test_the_bundled_profiles_are_those_of_the_public_figures() -> None:
    """Waits and loads come of a simulation over random numbers, whose stream may change with numpy."""
    devices, clouds = published(public_data("profiles"))
    phone, gpu = DeviceProfile.load(bundled.profile("phone")), CloudProfile.load(bundled.profile("gpu"))
    assert devices[0] == phone
    drawn = {"queue_ms_quantiles": gpu.queue_ms_quantiles, "load_quantiles": gpu.load_quantiles}
    assert replace(clouds[0], **drawn) == gpu
    assert clouds[0].queue_ms_quantiles[::20] == pytest.approx(gpu.queue_ms_quantiles[::20], rel=0.2, abs=3.0)
    assert len({each.name for each in (*devices, *clouds)}) == len(devices) + len(clouds) > 30
