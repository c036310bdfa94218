"""Outages that are put into a link, and a link that breaks; the other generators are tested with the trace (test_trace.py)."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import SettingError
from traces.errors import TraceError
from traces.links.generators import breaking_link, constant_link, markov_link, with_outages

LINK = markov_link(1, seconds=4000.0)


def test_outages_last_and_come_as_they_are_stated() -> None:
    cut = with_outages(LINK, 3, every_seconds=8.0, mean_seconds=2.0)
    off = cut.uplink_mbps == 0.0
    np.testing.assert_array_equal(off, cut.downlink_mbps == 0.0)
    starts = np.flatnonzero(np.diff(off.astype(int)) == 1)
    assert len(starts) == pytest.approx(400, rel=0.15)  # one in ten seconds
    assert off.mean() == pytest.approx(0.2, abs=0.04)
    np.testing.assert_array_equal(cut.uplink_mbps[~off], LINK.uplink_mbps[~off])
    np.testing.assert_array_equal(cut.rtt_ms, LINK.rtt_ms)


def test_the_seed_says_when() -> None:
    one, same, other = (with_outages(LINK, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.uplink_mbps, same.uplink_mbps)
    assert (one.uplink_mbps != other.uplink_mbps).any()
    assert (one.name, one.family) == ("markov-1-outages-1", "markov-outages")


def test_a_message_waits_for_the_end_of_an_outage() -> None:
    cut = with_outages(LINK, 3, every_seconds=8.0, mean_seconds=2.0)
    first = int(np.flatnonzero((cut.uplink_mbps[1:] == 0.0) & (cut.uplink_mbps[:-1] > 0.0))[0]) + 1
    lasts = int(np.flatnonzero(cut.uplink_mbps[first:] > 0.0)[0]) * cut.step_seconds
    at = first * cut.step_seconds + 1e-6
    assert cut.uplink_seconds(at, 1000) >= lasts > LINK.uplink_seconds(at, 1000)


def test_what_makes_no_sense_is_refused() -> None:
    for wrong in ({"seed": -1}, {"every_seconds": 0.0}, {"mean_seconds": float("nan")}):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            with_outages(LINK, **({"seed": 0} | wrong))  # type: ignore[arg-type]
    with pytest.raises(TraceError, match="0 throughout"):
        with_outages(constant_link(), 0, every_seconds=1e-3, mean_seconds=1e6)


def test_a_link_breaks_once_and_then() -> None:
    sound, broken = constant_link(40.0, 20.0, 10.0), constant_link(1000.0, 0.5, 1.0)
    link = breaking_link(0.75, sound, broken, seconds=100.0)
    for at, like in ((0.0, sound), (0.749, sound), (0.75, broken), (100.0, broken)):
        for one_way in ("uplink_seconds", "downlink_seconds"):
            assert getattr(link, one_way)(at, 64) == pytest.approx(getattr(like, one_way)(0.0, 64))
    assert 100.75 <= link.seconds < 102.0  # then it repeats
    np.testing.assert_array_equal(link.downlink_mbps[:2], [10.0, 1.0])


@pytest.mark.parametrize(
    ("at", "seconds"), [(0.0, 1.0), (1e-4, 1.0), (4000.0, 5000.0), (1.0, 0.5), (0.001, 1e4), (float("nan"), 1.0)]
)
def test_a_time_at_which_no_link_can_break_is_refused(at: float, seconds: float) -> None:
    with pytest.raises(SettingError):
        breaking_link(at, constant_link(), constant_link(), seconds)
