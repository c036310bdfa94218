from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces.errors import TraceError
from traces.links.generators import BAD, GOOD, constant_link, markov_link
from traces.links.store import load_links, save_links
from traces.links.trace import LinkTrace

SERIES = ("rtt_ms", "uplink_mbps", "downlink_mbps")
times = st.floats(0, 500)
sizes = st.integers(0, 2_000_000)


def trace(
    rtt_ms: list[float], uplink_mbps: list[float], downlink_mbps: list[float] | None = None, step_seconds: float = 1.0
) -> LinkTrace:
    down = downlink_mbps or [8.0] * len(rtt_ms)
    return LinkTrace("test", "test", step_seconds, np.array(rtt_ms), np.array(uplink_mbps), np.array(down))


traces = st.integers(1, 6).flatmap(
    lambda n: st.builds(
        trace,
        st.lists(st.floats(0, 1000), min_size=n, max_size=n),
        st.lists(st.sampled_from([0.0, 0.1, 1.0, 30.0]), min_size=n, max_size=n).filter(any),
        st.lists(st.sampled_from([0.0, 0.1, 1.0, 30.0]), min_size=n, max_size=n).filter(any),
        st.sampled_from([0.1, 0.5, 1.0]),
    )
)


def same(one: LinkTrace, other: LinkTrace) -> bool:
    return one.name == other.name and all(np.array_equal(getattr(one, s), getattr(other, s)) for s in SERIES)


# ---------------------------------------------------------------- how long a message takes


@given(rtt=st.floats(0, 2000), up=st.floats(0.01, 1000), down=st.floats(0.01, 1000), at=times, size=sizes)
def test_on_a_constant_link_a_message_takes_half_the_round_trip_and_its_bits(
    rtt: float, up: float, down: float, at: float, size: int
) -> None:
    link = constant_link(rtt, up, down)
    assert link.uplink_seconds(at, size) == pytest.approx(rtt / 2e3 + 8 * size / (up * 1e6), abs=1e-9, rel=1e-9)
    assert link.downlink_seconds(at, size) == pytest.approx(rtt / 2e3 + 8 * size / (down * 1e6), abs=1e-9, rel=1e-9)


def test_a_transfer_goes_on_at_the_rate_of_the_next_step() -> None:
    link = trace([0, 0], [1.0, 4.0])
    assert link.uplink_seconds(0.5, 125_000) == pytest.approx(0.5 + 0.5 / 4)  # 1 Mbit: half at 1 Mbit/s, half at 4


def test_a_transfer_waits_for_the_end_of_an_outage() -> None:
    link = trace([100, 100, 100, 100], [1.0, 0.0, 0.0, 2.0])
    assert link.uplink_seconds(0.5, 125_000) == pytest.approx(0.05 + 0.5 + 2.0 + 0.25)
    assert link.uplink_seconds(1.25, 125) == pytest.approx(0.05 + 1.75 + 0.0005)
    assert link.downlink_seconds(1.25, 1000) == pytest.approx(0.05 + 0.001), "each direction has its own rate"


def test_the_round_trip_is_that_of_the_sending_time() -> None:
    link = trace([100, 900], [8.0, 8.0])
    assert link.uplink_seconds(0.999, 1_000_000) == pytest.approx(0.05 + 1.0)
    assert link.uplink_seconds(1.0, 1_000_000) == pytest.approx(0.45 + 1.0)


@given(link=traces, at=st.floats(0, 5), size=sizes, laps=st.integers(1, 20))
def test_the_trace_repeats_from_its_start(link: LinkTrace, at: float, size: int, laps: int) -> None:
    step = link.step_seconds
    inside = (int(at / step) % len(link.rtt_ms) + 0.37) * step  # away from the edges of a step, where rounding decides
    assert link.uplink_seconds(inside + laps * link.seconds, size) == pytest.approx(link.uplink_seconds(inside, size), abs=1e-6)


def test_a_transfer_may_take_many_laps() -> None:
    link = trace([0, 0], [1.0, 0.0])
    assert link.uplink_seconds(0.0, 10 * 125_000) == pytest.approx(19.0)


@settings(max_examples=200)
@given(link=traces, at=times, size=sizes, more=sizes)
def test_more_bytes_never_take_less_time(link: LinkTrace, at: float, size: int, more: int) -> None:
    for seconds in (link.uplink_seconds, link.downlink_seconds):
        assert seconds(at, size + more) >= seconds(at, size) - 1e-9
        assert seconds(at, size) >= 0


@settings(max_examples=200)
@given(link=traces, at=times, later=st.floats(0, 20), size=sizes)
def test_whoever_sends_later_is_not_overtaken(link: LinkTrace, at: float, later: float, size: int) -> None:
    """Without the round trip, which belongs to the sending time, transfers of one size keep their order."""
    flat = LinkTrace("flat", "test", link.step_seconds, 0 * link.rtt_ms, link.uplink_mbps, link.downlink_mbps)
    assert at + later + flat.uplink_seconds(at + later, size) >= at + flat.uplink_seconds(at, size) - 1e-6


def test_a_time_on_the_edge_of_a_step_ends() -> None:
    """Steps of 0.1 s have edges that floats do not hit; each must still be passed."""
    link = markov_link(0, seconds=10.0)
    for step in range(300):
        assert 0 < link.uplink_seconds(step * 0.1, 500) < 60


# ---------------------------------------------------------------- generators


@pytest.mark.parametrize("seed", [0, 1, 99])
def test_a_markov_link_is_made_by_its_seed(seed: int) -> None:
    assert same(markov_link(seed), markov_link(seed))
    assert not same(markov_link(seed), markov_link(seed + 1))
    assert not np.array_equal(markov_link(seed).rtt_ms, markov_link(seed + 1).rtt_ms)


def test_a_markov_link_has_its_length_and_its_family() -> None:
    link = markov_link(5, seconds=30.0, step_seconds=0.2)
    assert (link.name, link.family, len(link.rtt_ms), link.seconds) == ("markov-5", "markov", 150, pytest.approx(30.0))


def test_a_markov_link_alternates_between_its_states() -> None:
    link = markov_link(1, seconds=4000.0, spread=0.0)
    good = link.rtt_ms == GOOD.rtt_ms
    assert np.array_equal(~good, link.rtt_ms == BAD.rtt_ms)
    assert np.array_equal(good, link.uplink_mbps == GOOD.uplink_mbps)
    assert np.array_equal(good, link.downlink_mbps == GOOD.downlink_mbps)
    assert good.mean() == pytest.approx(GOOD.dwell_seconds / (GOOD.dwell_seconds + BAD.dwell_seconds), abs=0.05)
    stays = np.diff(np.flatnonzero(np.diff(good.astype(int)))) * link.step_seconds
    assert stays[::2].mean() + stays[1::2].mean() == pytest.approx(GOOD.dwell_seconds + BAD.dwell_seconds, rel=0.1)


def test_a_markov_link_spreads_around_its_medians() -> None:
    link = markov_link(2, seconds=2000.0, bad=GOOD)
    assert np.median(link.rtt_ms) == pytest.approx(GOOD.rtt_ms, rel=0.02)
    assert np.log(link.uplink_mbps).std() == pytest.approx(0.25, rel=0.05)


# ---------------------------------------------------------------- what makes no sense


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rtt_ms": np.ones(3)}, r"lengths \[2, 3\]"),
        ({name: np.ones(0) for name in SERIES}, r"lengths \[0\]"),
        ({"step_seconds": 0.0}, "step_seconds=0.0 must be positive"),
        ({"step_seconds": -1.0}, "step_seconds=-1.0 must be positive"),
        ({"rtt_ms": np.array([1.0, -1.0])}, "rtt_ms has values that are negative or not finite"),
        ({"uplink_mbps": np.array([1.0, np.nan])}, "uplink_mbps has values that are negative or not finite"),
        ({"downlink_mbps": np.array([1.0, np.inf])}, "downlink_mbps has values that are negative or not finite"),
        ({"uplink_mbps": np.zeros(2)}, "never carries anything in one direction"),
        ({"downlink_mbps": np.zeros(2)}, "never carries anything in one direction"),
    ],
)
def test_a_trace_that_makes_no_sense_is_named(changes: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"step_seconds": 1.0, **{name: np.ones(2) for name in SERIES}}
    with pytest.raises(TraceError, match=f"link trace 'broken'.*{message}"):
        LinkTrace("broken", "test", **(fields | changes))


# ---------------------------------------------------------------- files


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    links = [constant_link(), markov_link(4, seconds=5.0), trace([1, 2, 3], [0.0, 0.1, 7.0], [1.0, 2.0, 3.0], 0.25)]
    path = tmp_path / "links.json"
    save_links(links, path)
    assert [p.name for p in tmp_path.iterdir()] == ["links.json"]
    for one, other in zip(load_links(str(path)), links, strict=True):
        assert (one.name, one.family, one.step_seconds) == (other.name, other.family, other.step_seconds)
        for name in SERIES:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=5e-5)


GOOD_ROW = {"name": "a", "family": "b", "step_seconds": 1.0, "rtt_ms": [1], "uplink_mbps": [1], "downlink_mbps": [1]}


def stated(**row: Any) -> str:
    return json.dumps({"format": "synera-links", "version": 1, "links": [GOOD_ROW | row]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a link file"),
        (stated()[:-20], "is not a link file"),
        ("[]", "is not a link file"),
        ('{"format": "other", "version": 1}', "it is not a link file of version 1"),
        ('{"format": "synera-links", "version": 2, "links": []}', "it is not a link file of version 1"),
        ('{"format": "synera-links", "version": 1}', "is not a link file: 'links'"),
        (stated(rtt_ms="fast"), "is not a link file"),
        (stated(rtt_ms=[1, [2]]), "is not a link file"),
        (stated(rtt_ms=[1, 2]), "lengths"),
        (stated(step_seconds=None), "is not a link file"),
        ("\x80", "is not a link file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "links.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TraceError, match=message) as error:
        load_links(path)
    assert "links.json" in str(error.value)


def test_a_file_that_is_not_there_or_not_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no link file at .*none\.json"):
        load_links(tmp_path / "none.json")
    with pytest.raises(TraceError, match="is not a link file"):
        load_links(tmp_path)
