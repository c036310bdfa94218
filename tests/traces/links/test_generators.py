"""Outages that are put into a link; the other generators are tested with the trace (test_trace.py)."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.errors import SettingError
from traces.errors import TraceError
from traces.links.generators import constant_link, markov_link, with_outages

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
