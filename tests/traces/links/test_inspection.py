"""Figures of link traces by family, over time."""

from __future__ import annotations

import numpy as np
import pytest

from traces.links.generators import constant_link, markov_link
from traces.links.inspection import figures_by_family
from traces.links.trace import LinkTrace


def test_time_counts_and_not_samples() -> None:
    """A minute at a step of a second weighs as much as one at a step of ten."""
    fine = LinkTrace("a", "f", 1.0, np.full(60, 10.0), np.ones(60), np.ones(60))
    coarse = LinkTrace("b", "f", 10.0, np.full(6, 30.0), np.array([0.0, 4, 4, 4, 4, 4]), np.ones(6), {"rtt_ms": "a rule"})
    found = figures_by_family([fine, coarse])["f"]
    assert (found.traces, found.seconds, found.shortest_seconds, found.steps_seconds) == (2, 120.0, 60.0, [1.0, 10.0])
    rtt, up = found.series["rtt_ms"], found.series["uplink_mbps"]
    assert (rtt.mean, rtt.p5, rtt.p50, rtt.p95) == (20.0, 10.0, 10.0, 30.0)
    assert rtt.filled == ["a rule"]
    assert up.zero == pytest.approx(10 / 120)
    assert up.filled == []


def test_quantiles_are_those_of_the_series() -> None:
    links = [markov_link(seed) for seed in range(4)]
    found = figures_by_family([*links, constant_link()])
    assert list(found) == ["constant", "markov"]
    rtt = np.concatenate([link.rtt_ms for link in links])
    series = found["markov"].series["rtt_ms"]
    wanted = np.quantile(rtt, [0.05, 0.5, 0.95], method="inverted_cdf")
    assert [series.p5, series.p50, series.p95] == wanted.tolist()
    assert series.mean == pytest.approx(rtt.mean())
