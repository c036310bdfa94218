"""Which traces are for which split: always alike, whole families apart, nothing in two of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SettingError
from tests.support.link_files import FAMILIES, every_form, write
from traces.errors import TraceError
from traces.links.generators import constant_link
from traces.links.splits import SPLITS, divided, load_split
from traces.links.store import save_links
from traces.links.trace import LinkTrace


def link(family: str, number: int, samples: int = 1) -> LinkTrace:
    series = np.arange(1.0, samples + 1)
    return LinkTrace(f"{family}/{number}", family, 1.0, series, series, series)


@given(counts=st.lists(st.integers(3, 60), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_whole_traces_are_divided_in_each_family(counts: list[int], seed: int) -> None:
    links = [link(f"f{place}", i) for place, count in enumerate(counts) for i in range(count)]
    parts = divided(links)
    assert sorted(each.name for part in parts.values() for each in part) == sorted(each.name for each in links)
    for place, count in enumerate(counts):
        sizes = {split: sum(each.family == f"f{place}" for each in parts[split]) for split in SPLITS}
        assert sizes["validation"] == sizes["test"] == max(1, round(0.15 * count))
        assert sizes["train"] >= 1
    shuffled = [links[i] for i in np.random.default_rng(seed).permutation(len(links))]
    again = divided(shuffled)
    assert {s: [x.name for x in again[s]] for s in SPLITS} == {s: [x.name for x in parts[s]] for s in SPLITS}


@given(samples=st.integers(3, 200), traces=st.integers(1, 2))
def test_one_or_two_traces_are_cut_in_time(samples: int, traces: int) -> None:
    links = [link("f", i, samples) for i in range(traces)]
    parts = divided(links)
    for i, whole in enumerate(links):
        assert {parts[split][i].name for split in SPLITS} == {whole.name}
        joined = np.concatenate([parts[split][i].rtt_ms for split in SPLITS])
        assert joined.tolist() == whole.rtt_ms.tolist(), "training comes first, the test last, and nothing is lost"
        assert len(parts["test"][i].rtt_ms) == len(parts["validation"][i].rtt_ms) == max(1, round(0.15 * samples))


def test_what_cannot_be_cut_is_refused_with_the_way_out(tmp_path: Path) -> None:
    save_links([constant_link()], tmp_path / "links.json")
    with pytest.raises(TraceError, match=r"links\.json: link trace 'constant-60ms' has 1 samples, too few.*folders train"):
        load_split(tmp_path / "links.json", "test")
    path = write(tmp_path / "a.csv", ["time,downlink_mbps", *(f"{t},{int(t < 50)}" for t in range(100))])
    with pytest.raises(
        TraceError, match=r"a\.csv: cut for validation, link trace .a.: uplink_mbps is 0 throughout.*; put whole traces"
    ):
        load_split(path, "test")


def test_a_folder_of_its_own_is_taken_whole(tmp_path: Path) -> None:
    every_form(tmp_path / "train")
    save_links([constant_link()], tmp_path / "test.json")
    assert {each.family for each in load_split(tmp_path, "train")} == set(FAMILIES)
    assert [each.name for each in load_split(tmp_path, "test")] == ["constant-60ms"]
    with pytest.raises(TraceError, match=r"holds train, test, but no validation; put the link traces for it into .*validation"):
        load_split(tmp_path, "validation")


def test_every_form_can_be_divided_and_a_split_must_be_known(tmp_path: Path) -> None:
    folder = every_form(tmp_path)
    for split in SPLITS:
        found = load_split(folder, split)
        assert {each.family for each in found} == set(FAMILIES)
        assert sum(each.family == "norway" for each in found) == 1
    with pytest.raises(SettingError, match="split='all' is not one of train, validation, test"):
        load_split(folder, "all")
