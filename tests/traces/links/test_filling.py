"""What a recording lacks is filled by a rule that the trace states, and never without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SettingError
from traces.errors import TraceError
from traces.links.filling import Filling, filled_by_family
from traces.links.generators import constant_link
from traces.links.source import Access, Recording
from traces.links.store import load_links, save_links
from traces.links.trace import FASTEST_MBPS, LONGEST_RULE, SERIES, LinkTrace

RATES = np.array([0.0, 2.0, 8.0])


def recording(access: Access = "lte", **series: np.ndarray) -> Recording:
    return Recording("a", "f", access, 1.0, **series)


@given(access=st.sampled_from(get_args(Access)), recorded=st.sets(st.sampled_from(SERIES), min_size=1))
def test_what_was_recorded_is_kept_and_what_was_not_says_its_rule(access: Access, recorded: set[str]) -> None:
    link = Filling().fill(recording(access, **dict.fromkeys(recorded, RATES)))
    assert set(link.filled) == set(SERIES) - recorded
    for name in recorded:
        assert getattr(link, name).tolist() == RATES.tolist()
    for rule in link.filled.values():
        assert 10 < len(rule) <= LONGEST_RULE
        assert ": " in rule, "a rule names its source"
    if "downlink_mbps" in recorded or "uplink_mbps" in recorded:
        assert link.uplink_mbps[0] == link.downlink_mbps[0] == 0.0, "an outage of one direction is one of both"
    assert (link.uplink_mbps <= link.downlink_mbps).all() or {"uplink_mbps", "downlink_mbps"} <= recorded


def test_a_rule_depends_on_how_the_device_was_connected() -> None:
    found = {access: Filling().fill(recording(access, downlink_mbps=RATES)).rtt_ms[0] for access in get_args(Access)}
    assert found["fixed"] < found["5g"] < found["lte"] < found["unknown"] < found["3g"]


def test_a_downlink_that_would_be_faster_than_any_is_cut() -> None:
    link = Filling(uplink_share=1e-3).fill(recording(uplink_mbps=np.array([1.0, 9e5])))
    assert link.downlink_mbps.tolist() == [1000.0, FASTEST_MBPS]


def test_a_share_that_is_too_slow_to_be_stated_is_an_outage() -> None:
    link = Filling(uplink_share=1e-3).fill(recording(downlink_mbps=np.array([0.05, 1.0])))
    assert link.uplink_mbps.tolist() == [0.0, 1e-3]


def test_nothing_cannot_be_filled() -> None:
    with pytest.raises(TraceError, match="a: nothing was recorded"):
        Filling().fill(recording())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rtt_ms": -1.0}, r"rtt_ms=-1\.0"),
        ({"rtt_ms": float("nan")}, "rtt_ms=nan"),
        ({"uplink_share": 0.0}, r"uplink_share=0\.0"),
        ({"downlink_mbps": 1e9}, "downlink_mbps"),
    ],
)
def test_figures_that_make_no_sense_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        Filling(**wrong)


def test_rules_go_through_files_and_version_1_has_none(tmp_path: Path) -> None:
    link, path = Filling().fill(recording(downlink_mbps=RATES)), tmp_path / "links.json"
    save_links([link, constant_link()], path)
    assert '"version": 2' in path.read_text()
    filled, made = load_links(path)
    assert (filled.filled, made.filled) == (link.filled, {})
    path.write_text(
        '{"format": "synera-links", "version": 1, "links": [{"name": "a", "family": "b", "step_seconds": 1.0, "rtt_ms": [1], '
        '"uplink_mbps": [1], "downlink_mbps": [1]}]}'
    )
    assert load_links(path)[0].filled == {}


@pytest.mark.parametrize(
    "wrong", [{"rtt": "a rule"}, {"rtt_ms": ""}, {"rtt_ms": "x" * (LONGEST_RULE + 1)}, {"rtt_ms": 3}, "rtt_ms"]
)
def test_a_rule_of_no_series_or_that_says_nothing_is_refused(wrong: Any) -> None:
    with pytest.raises(TraceError, match=r"link trace 'a': filled=.* must name series"):
        LinkTrace("a", "b", 1.0, RATES, RATES, RATES, wrong)


def test_rules_by_family() -> None:
    filled = Filling().fill(recording(downlink_mbps=RATES))
    other = Filling(rtt_ms=5.0).fill(recording(downlink_mbps=RATES))
    found = filled_by_family([filled, other, constant_link()])
    assert list(found) == ["f"]
    assert list(found["f"]) == ["rtt_ms", "uplink_mbps"]
    assert found["f"]["rtt_ms"] == sorted([filled.filled["rtt_ms"], "5 ms throughout: as given"])
