"""Real recordings of every form, where they are at hand, against the statistics that their collection states.

The collection pools rows as they come; a trace is weighed by time. Where that differs, the tolerance or the way it is looked at says so.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.public_data import public_data
from traces.links.inspection import figures_by_family
from traces.links.readers import load
from traces.links.splits import SPLITS, divided
from traces.links.trace import LinkTrace


def pooled(links: list[LinkTrace], name: str) -> NDArray[np.float64]:
    """A series of all traces, one after the other."""
    return np.concatenate([getattr(link, name) for link in links])


def spread(values: NDArray[np.float64]) -> list[float]:
    """Mean, 5th percentile, median and 95th."""
    return [float(values.mean()), *map(float, np.quantile(values, [0.05, 0.5, 0.95]))]


@pytest.mark.parametrize(
    ("name", "seconds", "stated"),
    [
        ("ATT-LTE-driving-2016.down", 120, (4.52, 0.35, 3.73, 11.1)),
        ("ATT-LTE-driving-2016.up", 120, (1.89, 0.02, 1.56, 4.8)),
        ("ATT-LTE-driving.down", 786, (5.17, 0.66, 5.40, 9.5)),
        ("ATT-LTE-driving.up", 1012, (0.83, 0.00, 1.04, 1.2)),
        ("TMobile-UMTS-driving.down", 928, (2.02, 0.02, 1.88, 5.4)),
        ("TMobile-UMTS-driving.up", 931, (0.94, 0.07, 1.07, 1.4)),
        ("Verizon-LTE-short.down", 140, (4.99, 0.96, 4.26, 10.8)),
        ("Verizon-LTE-short.up", 140, (5.90, 1.15, 5.65, 11.4)),
    ],
)
def test_mahimahi_in_bins_of_a_second(name: str, seconds: int, stated: tuple[float, ...], tmp_path: Path) -> None:
    """Each direction alone, as a pair is cut to the shorter one."""
    alone = tmp_path / f"{name}.gz"
    alone.symlink_to(public_data(f"network/mahimahi/{name}.gz"))
    (link,) = load(alone)
    mbps = link.uplink_mbps if name.endswith(".up") else link.downlink_mbps
    assert int(link.seconds + 1e-6) == seconds
    bins = mbps[: len(mbps) // 10 * 10].reshape(-1, 10).mean(axis=1)
    mean, p5, median, p95 = spread(bins)
    assert (mean, median, p95) == pytest.approx((stated[0], *stated[2:]), rel=0.02, abs=0.05)
    assert p5 == pytest.approx(stated[1], abs=0.25), "the collection counts the last second, too, of which there is little"


def test_mahimahi_pairs_are_cut_to_the_shorter_direction() -> None:
    links = {link.name: link for link in load(public_data("network/mahimahi"))}
    assert {name: int(link.seconds) for name, link in links.items()} == {
        "ATT-LTE-driving": 786,
        "ATT-LTE-driving-2016": 120,
        "TMobile-UMTS-driving": 928,
        "Verizon-LTE-short": 140,
    }
    assert {rule for link in links.values() for rule in link.filled} == {"rtt_ms"}


@pytest.mark.parametrize(
    ("folder", "traces", "family", "seconds", "stated"),
    [
        ("cooked_3gp", 80, "norway", 21013, (1.67, 0.50, 1.44, 3.84)),
        ("fcc", 84, "fcc", 44176, (1.85, 0.51, 1.52, 3.87)),
        ("traces_oboe", 100, "oboe", 17628, (2.78, 0.50, 2.73, 5.32)),
        ("puffer_220218", 50, "puffer", 27100, (1.45, 0.09, 0.97, 4.36)),
    ],
)
def test_throughput_where_its_rows_are(folder: str, traces: int, family: str, seconds: int, stated: tuple[float, ...]) -> None:
    """Slow rows take long: weighed by time Norway has a mean of 1.21 and not 1.67. So each row looks at the second that it ends in."""
    place = public_data(f"network/merina/{folder}")
    links = load(place)
    assert len(links) == traces
    assert {link.family for link in links} == {family}
    assert sum(link.seconds for link in links) == pytest.approx(seconds, rel=0.005)
    looked = []
    for link in links:
        times = np.loadtxt(place / link.name if (place / link.name).exists() else place / f"{link.name}.txt", usecols=0)
        middles = (times[1:] + times[:-1]) / 2 - times[0]
        looked.append(link.downlink_mbps[np.minimum(middles.astype(int), len(link.downlink_mbps) - 1)])
    found = np.concatenate(looked)
    assert spread(found)[::2] == pytest.approx(stated[::2], rel=0.04)
    assert spread(found)[1::2] == pytest.approx(stated[1::2], rel=0.1, abs=0.06)


@pytest.mark.parametrize(
    ("scene", "traces", "seconds", "downlink", "ping"),
    [
        ("Static", 3, 6880, (58.3, 0, 20.3, 223), (78, 66, 73, 89)),
        ("Driving", 11, 22502, (27.7, 0, 8.1, 161), (93, 68, 81, 144)),
    ],
)
def test_the_phone_log(scene: str, traces: int, seconds: int, downlink: tuple[float, ...], ping: tuple[float, ...]) -> None:
    """Without the rows at which its pings hold downloads up, rates are a quarter to a third higher than stated over all rows."""
    links = load(public_data(f"network/ucc5g/{scene}"))
    assert (len(links), {link.family for link in links}) == (traces, {f"ucc5g-{scene.lower()}"})
    assert sum(link.seconds for link in links) == pytest.approx(seconds, rel=0.002)
    mean, p5, median, p95 = spread(pooled(links, "rtt_ms"))
    assert (mean, p5, median) == pytest.approx(ping[:3], rel=0.03)
    assert p95 == pytest.approx(ping[3], rel=0.2), "a ping holds until the next, and those that got lost leave longer gaps"
    mean, p5, median, p95 = spread(pooled(links, "downlink_mbps"))
    assert 1.2 < mean / downlink[0] < 1.35
    assert p95 == pytest.approx(downlink[3], rel=0.15)
    assert median > downlink[2]
    assert p5 > 0
    assert {tuple(link.filled) for link in links} == {("uplink_mbps",)}


@pytest.mark.parametrize(
    ("folders", "family", "stated"),
    [
        (("Urban road/2-n78",), "cicv5g-n78", (16.8, 13, 16, 22)),
        (("Urban road/1-n8", "Arterial road/n8"), "cicv5g-n8", (19.7, 16, 19, 26)),
    ],
)
def test_round_trips_of_vehicles(folders: tuple[str, ...], family: str, stated: tuple[float, ...]) -> None:
    links = [link for folder in folders for link in load(public_data(f"network/cicv5g/{folder}"))]
    assert {link.family for link in links} == {family}
    assert spread(pooled(links, "rtt_ms")) == pytest.approx(stated, rel=0.05)


def test_all_vehicle_runs_are_of_a_network() -> None:
    links = load(public_data("network/cicv5g"))
    families = [link.family for link in links]
    assert {family: families.count(family) for family in set(families)} == {"cicv5g-n78": 14, "cicv5g-n8": 12}


@pytest.mark.parametrize(
    ("file", "family", "seconds", "stated"),
    [
        ("7Train1.csv", "nyumets", 4910, (6.8, 0.7, 5.3, 18)),
        ("bus57.csv", "nyumets", 2403, (7.2, 1.3, 6.5, 15)),
        ("bus62.csv", "nyumets", 3293, (2.6, 0.7, 2.6, 4.6)),
        ("Long_Island_Rail_Road.csv", "nyumets", 1447, (4.3, 0.0, 3.1, 12)),
        ("multivariate/BB61txt.gz", "nyumets-multivariate", 21179, (17.8, 0, 16, 37)),
        ("multivariate/BB62.txt.gz", "nyumets-multivariate", 22005, (18.4, 0, 16, 38)),
        ("multivariate/TT7.txt.gz", "nyumets-multivariate", 15122, (8.7, 0, 6.8, 24)),
    ],
)
def test_throughput_a_row_a_second(file: str, family: str, seconds: int, stated: tuple[float, ...]) -> None:
    (link,) = load(public_data(f"network/nyumets/{file}"))
    assert (link.family, link.seconds) == (family, seconds)
    assert spread(link.downlink_mbps) == pytest.approx(stated, rel=0.04, abs=0.1)


def test_all_of_it_is_one_folder_that_can_be_divided() -> None:
    links = load(public_data("network"))
    assert len(links) == 365
    families = figures_by_family(links)
    assert len(families) == 13
    assert sum(family.seconds for family in families.values()) == pytest.approx(215_600, rel=0.001)
    for family in families.values():
        for series in family.series.values():
            assert all(len(rule) > 20 for rule in series.filled)
    parts = divided(links)
    for split in SPLITS:
        assert {link.family for link in parts[split]} == set(families)
