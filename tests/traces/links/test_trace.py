from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import SettingError
from traces.errors import TraceError
from traces.links.generators import BAD, GOOD, LinkState, constant_link, markov_link
from traces.links.store import load_links, save_links
from traces.links.trace import SERIES, SLOWEST_MBPS, LinkTrace

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

STEPS = r"must be a number in 0\.001\.\.3600"
RATES = r"must be 0 or in 0\.0001\.\.1e\+06"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rtt_ms": np.ones(3)}, r"lengths \[2, 3\]; they must be equal"),
        ({name: np.ones(0) for name in SERIES}, r"rtt_ms has shape \[0\]; it must be a series of 1 to 1000000 samples"),
        ({name: np.broadcast_to(1.0, 10**9) for name in SERIES}, r"rtt_ms has shape \[1000000000\]"),
        ({"uplink_mbps": np.ones((2, 1))}, r"uplink_mbps has shape \[2, 1\]"),
        ({"uplink_mbps": 3.0}, r"uplink_mbps has shape \[\]"),
        ({"uplink_mbps": "ab"}, r"uplink_mbps has shape \[\]"),
        ({"uplink_mbps": ["a", "b"]}, "uplink_mbps must be a series of numbers"),
        ({"uplink_mbps": [1.0, [2.0]]}, "uplink_mbps must be a series of numbers"),
        ({"uplink_mbps": [1, 10**400]}, "uplink_mbps must be a series of numbers"),
        ({"uplink_mbps": [True, True]}, "uplink_mbps must be a series of numbers"),
        ({"step_seconds": 0.0}, rf"step_seconds=0\.0 {STEPS}"),
        ({"step_seconds": -1.0}, rf"step_seconds=-1\.0 {STEPS}"),
        ({"step_seconds": 1e-300}, rf"step_seconds=1e-300 {STEPS}"),
        ({"step_seconds": 1e6}, rf"step_seconds=1000000\.0 {STEPS}"),
        ({"step_seconds": 10**400}, rf"step_seconds=1000+\.\.\. {STEPS}"),
        ({"step_seconds": float("nan")}, rf"step_seconds=nan {STEPS}"),
        ({"step_seconds": "1"}, rf"step_seconds='1' {STEPS}"),
        ({"step_seconds": True}, rf"step_seconds=True {STEPS}"),
        ({"rtt_ms": np.array([1.0, -1.0])}, r"rtt_ms=-1\.0 at sample 1 must be in 0\.\.600000"),
        ({"rtt_ms": np.array([1e308, 1.0])}, r"rtt_ms=1e\+308 at sample 0 must be in 0\.\.600000"),
        ({"uplink_mbps": np.array([1.0, np.nan])}, f"uplink_mbps=nan at sample 1 {RATES}"),
        ({"downlink_mbps": np.array([1.0, np.inf])}, f"downlink_mbps=inf at sample 1 {RATES}"),
        ({"downlink_mbps": np.array([0.0, 1e-300])}, f"downlink_mbps=1e-300 at sample 1 {RATES}"),
        ({"downlink_mbps": np.array([1e7, 1.0])}, rf"downlink_mbps=10000000\.0 at sample 0 {RATES}"),
        ({"uplink_mbps": np.zeros(2)}, "uplink_mbps is 0 throughout"),
        ({"downlink_mbps": np.zeros(2)}, "downlink_mbps is 0 throughout"),
    ],
)
def test_a_trace_that_makes_no_sense_is_named(changes: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"step_seconds": 1.0, **{name: np.ones(2) for name in SERIES}}
    with pytest.raises(TraceError, match=f"link trace 'broken': .*{message}"):
        LinkTrace("broken", "test", **(fields | changes))


@pytest.mark.parametrize("name", ["", "x" * 201, 3, None])
def test_a_trace_without_a_usable_name_is_refused(name: Any) -> None:
    for names in ((name, "test"), ("test", name)):
        with pytest.raises(TraceError, match="name and family must have 1 to 200 characters, not"):
            LinkTrace(*names, 1.0, np.ones(1), np.ones(1), np.ones(1))


def test_a_series_may_be_a_list_of_numbers() -> None:
    link = LinkTrace("a", "b", 1, [1, 2], [1.0, 0], (3, 4))  # type: ignore[arg-type]
    assert all(getattr(link, name).dtype == np.float64 for name in SERIES)
    assert link.uplink_seconds(0.0, 1000) == pytest.approx(0.0005 + 0.008)


@settings(max_examples=200)
@given(
    step=st.sampled_from([1e-3, 0.1, 3600.0]),
    rates=st.lists(st.sampled_from([0.0, 1e-4, 1.0, 1e6]), min_size=1, max_size=8).filter(any),
    at=st.floats(0, 1e6),
    size=st.integers(0, 10**9),
)
def test_at_the_ends_of_its_ranges_a_link_still_has_an_answer(step: float, rates: list[float], at: float, size: int) -> None:
    link = trace([6e5] * len(rates), rates, step_seconds=step)
    seconds = link.uplink_seconds(at, size)
    assert np.isfinite(seconds)
    assert seconds >= 300.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: constant_link(rtt_ms=-1), r"rtt_ms=-1 must be a number in 0\.\.600000"),
        (lambda: constant_link(rtt_ms=10**400), "rtt_ms=1000"),
        (lambda: constant_link(uplink_mbps=0), "uplink_mbps=0 must be"),
        (lambda: constant_link(downlink_mbps=float("nan")), "downlink_mbps=nan must be"),
        (lambda: LinkState(1, 1, 1, 0), r"dwell_seconds=0 must be a number in 0\.001\.\.1e\+06"),
        (lambda: LinkState(1e9, 1, 1, 1), "rtt_ms=1000000000.0 must be"),
        (lambda: markov_link(-1), "seed=-1 must be a number at least 0"),
        (lambda: markov_link(0, seconds=1e300), "seconds=1e\\+300 must be a number in 0..100000"),
        (lambda: markov_link(0, seconds=1.0, step_seconds=1e-300), "step_seconds=1e-300 must be"),
        (lambda: markov_link(0, spread=1e9), "spread=1000000000.0 must be"),
    ],
)
def test_a_link_that_cannot_be_generated_names_its_argument(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        make()


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
    return json.dumps({"format": "synera-links", "version": 2, "links": [GOOD_ROW | row]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a LinkFile: Invalid JSON"),
        (stated()[:-20], "is not a LinkFile: Invalid JSON"),
        ("[" * 100_000, "is not a LinkFile: Invalid JSON: recursion limit exceeded"),
        ("\x80", "is not a LinkFile: Invalid JSON"),
        ("[]", "is not a LinkFile: Input should be an object"),
        ('{"format": "other", "version": 1}', "format: Input should be 'synera-links', not 'other'"),
        ('{"format": "synera-links", "version": 3, "links": []}', "version: Input should be 1 or 2, not 3"),
        ('{"format": "synera-links", "version": 1, "links": []}', "links: .*at least 1 item"),
        ('{"format": "synera-links", "version": 1}', "links: Field required"),
        (stated(rtt_ms="fast"), r"links\.0\.rtt_ms: .*valid array, not 'fast'"),
        (stated(rtt_ms=[1, [2]]), r"links\.0\.rtt_ms\.1: .*valid number, not \[2\]"),
        (stated(rtt_ms=[True]), r"links\.0\.rtt_ms\.0: .*valid number, not True"),
        (stated(rtt_ms=[10**400]), r"links\.0\.rtt_ms\.0: .*finite number"),
        (stated(rtt_ms=[1] * 1_000_001), r"links\.0\.rtt_ms: .*at most 1000000 items"),
        (stated(rtt_ms=[float("nan")]), r"links\.0\.rtt_ms\.0: .*finite number, not nan"),
        (stated(rtt_ms=[1, 2]), r"link trace 'a': its three series have lengths \[1, 2\]"),
        (stated(uplink_mbps=[-1]), r"link trace 'a': uplink_mbps=-1\.0 at sample 0"),
        (stated(step_seconds=None), r"links\.0\.step_seconds: .*valid number, not None"),
        (stated(step_seconds=float("nan")), r"links\.0\.step_seconds: .*finite number, not nan"),
        (stated(step_seconds=1e-300), "link trace 'a': step_seconds=1e-300 must be"),
        (stated(filled={"rtt_ms": 3}), r"links\.0\.filled\.rtt_ms: .*valid string, not 3"),
        (stated(filled={"rtt": "x"}), "link trace 'a': filled=.*must name series"),
        (stated(name=7), r"links\.0\.name: .*valid string, not 7"),
        (stated(nmae="a"), r"links\.0\.nmae: Unexpected keyword argument"),
        (
            stated().replace("]}]}", "]}, " + json.dumps(GOOD_ROW) + "]}"),
            "two links are called 'a'; a link is told by its name",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "links.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TraceError, match=message) as error:
        load_links(path)
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 400


def test_a_file_that_is_not_there_or_not_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no link file at .*none\.json"):
        load_links(tmp_path / "none.json")
    for path in (tmp_path, "/dev/zero"):
        with pytest.raises(TraceError, match="cannot be read: it is not a regular file"):
            load_links(path)


def test_a_set_that_could_not_be_read_back_is_not_written(tmp_path: Path) -> None:
    for links, message in (([], "there are no links"), ([constant_link(), constant_link()], "two links are called")):
        with pytest.raises(TraceError, match=message):
            save_links(links, tmp_path / "links.json")
    assert list(tmp_path.iterdir()) == []


def test_the_slowest_link_survives_its_file(tmp_path: Path) -> None:
    """Files keep four decimals; what is slower would come back as an outage."""
    save_links([constant_link(uplink_mbps=SLOWEST_MBPS)], tmp_path / "links.json")
    assert load_links(tmp_path / "links.json")[0].uplink_mbps == [SLOWEST_MBPS]
