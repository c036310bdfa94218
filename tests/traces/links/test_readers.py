"""Files of others: each form is told by what is in it, read with its units, and what is damaged is named with its line."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.link_files import CICV5G_HEADER, FAMILIES, UCC5G_HEADER, cicv5g_rows, every_form, stamp, ucc5g_rows, write
from traces.errors import TraceError
from traces.links.filling import Filling
from traces.links.generators import constant_link
from traces.links.readers import FORMATS, format_of, load
from traces.links.store import save_links
from traces.links.text import Text
from traces.links.trace import SERIES, LinkTrace

CSV = "time,rtt_ms,uplink_mbps,downlink_mbps"


def one(path: Path) -> LinkTrace:
    (link,) = load(path)
    return link


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("packed", [False, True])
def test_mahimahi_directions_are_paired_and_cut_to_the_shorter(tmp_path: Path, packed: bool) -> None:
    ending = ".gz" if packed else ""
    down = write(tmp_path / f"TMobile-UMTS-walk.down{ending}", [0, 0, 50, 99, 100, 299, 305], packed)
    up = write(tmp_path / f"TMobile-UMTS-walk.up{ending}", [10, 150, 450], packed)
    for path in (down, up):
        link = one(path)
        assert (link.name, link.family, link.step_seconds) == ("TMobile-UMTS-walk", "mahimahi-TMobile-UMTS", 0.1)
        assert link.downlink_mbps == pytest.approx([0.48, 0.12, 0.12])
        assert link.uplink_mbps == pytest.approx([0.12, 0.12, 0.0])
        assert list(link.filled) == ["rtt_ms"]
    assert [each.name for each in load(tmp_path)] == ["TMobile-UMTS-walk"], "a pair is one trace"


@pytest.mark.parametrize(("name", "filled"), [("x.up", "downlink_mbps"), ("x.down", "uplink_mbps"), ("12mbps", "uplink_mbps")])
def test_one_mahimahi_direction_alone_leaves_the_other_to_be_filled(tmp_path: Path, name: str, filled: str) -> None:
    link = one(write(tmp_path / name, range(0, 1001, 10)))
    assert list(link.filled) == ["rtt_ms", filled]
    recorded = "uplink_mbps" if filled == "downlink_mbps" else "downlink_mbps"
    assert getattr(link, recorded) == pytest.approx([1.2] * 10)


def test_throughput_holds_until_its_row_s_time_and_the_first_row_begins_time(tmp_path: Path) -> None:
    link = one(write(tmp_path / "norway_bus_1", ["1000.0\t99", "1000.5\t8", "1002.0\t4", "1003.0\t1", "1003.2\t7"]))
    assert link.downlink_mbps.tolist() == [6.0, 4.0, 1.0], "99 says nothing, and the last 0.2 s are no whole step"
    assert (link.family, link.step_seconds) == ("norway", 1.0)


@pytest.mark.parametrize(
    ("path", "family"),
    [
        *(("norway_train_9", "norway"), ("cooked_3gp/x", "norway"), ("fcc/trace_1_http---www.a.com", "fcc")),
        *(("oboe_trace_1.txt", "oboe"), ("puffer_1/traceX=_4", "puffer"), ("my links/a.log", "my links")),
    ],
)
def test_throughput_is_of_the_set_or_folder_that_its_path_names(tmp_path: Path, path: str, family: str) -> None:
    link = one(write(tmp_path / path, ["0 1", "1 2", "2 3"]))
    assert link.family == family
    assert link.name == Path(path).name.removesuffix(".txt").removesuffix(".log")


def test_the_phone_log_is_told_apart_from_its_measuring(tmp_path: Path) -> None:
    """Downloads stand still at a ping; uplink bitrates are acknowledgements; an idle phone says nothing of the link."""
    rows = ucc5g_rows([8000, 8000, 40, 0, 60, 4000, 4000, 0, 4000, 0], {3: 70.0, 9: 90.0})
    rows[7] = rows[7].replace(",D,", ",I,").replace(",4000,", ",17,")
    link = one(write(tmp_path / "Static" / "B_1.csv.gz", rows, packed=True))
    assert link.family == "ucc5g-static"
    assert link.downlink_mbps.tolist() == [8, 8, 8, 8, 8, 4, 4, 0, 0, 0]
    assert link.rtt_ms.tolist() == [70] * 9 + [90]
    assert list(link.filled) == ["uplink_mbps"]
    assert link.uplink_mbps.max() < 8.0, "99999 kbit/s of acknowledgements are no uplink"


def test_the_phone_log_s_seconds_that_come_twice_are_averaged_and_gaps_held(tmp_path: Path) -> None:
    rows = [UCC5G_HEADER, *(f"{stamp(t)},0,LTE,{kbps},1,D,-,-" for t, kbps in ((0, 1000), (0, 3000), (1, 5000), (4, 7000)))]
    link = one(write(tmp_path / "B_1.csv", rows))
    assert link.downlink_mbps.tolist() == [2, 5, 5, 5, 7]
    assert list(link.filled) == ["rtt_ms", "uplink_mbps"], "without a ping, round trips are not recorded"
    assert link.family == "ucc5g"


def test_round_trips_of_a_vehicle(tmp_path: Path) -> None:
    link = one(
        write(
            tmp_path / "Urban road" / "2-n78" / "run_v20.txt", [*cicv5g_rows([16, 20, 30]), "1721200386867 1721200386967 100 x"]
        )
    )
    assert link.rtt_ms == pytest.approx([16, 20, 30, 30, 100])
    assert (link.family, link.step_seconds) == ("cicv5g-n78", 0.05)
    assert list(link.filled) == ["uplink_mbps", "downlink_mbps"]


def test_units_of_each_row_count(tmp_path: Path) -> None:
    link = one(
        write(tmp_path / "bus57.csv", ["2.5,Mbits/sec", "250,Kbits/sec", "0.00,bits/sec", "1500,bits/sec", "99,bits/sec"])
    )
    assert link.downlink_mbps == pytest.approx([2.5, 0.25, 0.0, 0.0015, 0.0])
    assert (link.family, link.step_seconds) == ("nyumets", 1.0)


def test_the_first_of_eight_columns_is_the_throughput(tmp_path: Path) -> None:
    link = one(write(tmp_path / "TT7.txt.gz", ["9.41,4,0,-91,-19,1,0,2100", "0,4,1,-91,-19,1,0,1900"], packed=True))
    assert link.downlink_mbps.tolist() == [9.41, 0]
    assert link.family == "nyumets-multivariate"


@pytest.mark.parametrize("columns", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)])
def test_a_table_may_leave_out_columns(tmp_path: Path, columns: Sequence[int]) -> None:
    names = [SERIES[i] for i in columns]
    path = write(
        tmp_path / "lab" / "a.csv", [",".join(["time", *names]), *(",".join([str(t), *["3"] * len(names)]) for t in range(4))]
    )
    link = one(path)
    assert link.family == "lab"
    assert set(link.filled) == set(SERIES) - set(names)
    for name in names:
        assert getattr(link, name).tolist() == [3, 3, 3, 3]


def test_a_table_of_uneven_steps_takes_their_median_and_holds_over_what_is_not_measured(tmp_path: Path) -> None:
    link = one(write(tmp_path / "a.csv", [CSV, "10,20,1,8", "12,-,2,", "14,50,,16", "17,60,4,16"]))
    assert link.step_seconds == 2.0
    assert link.rtt_ms.tolist() == [20, 20, 50, 55]
    assert link.uplink_mbps.tolist() == [1, 2, 2, 3]
    assert link.downlink_mbps.tolist() == [8, 8, 16, 16]
    assert link.filled == {}


@settings(max_examples=50)
@given(
    rows=st.lists(st.tuples(*[st.floats(0.001, 1e4).map(lambda x: round(x, 3))] * 3), min_size=2, max_size=20),
    step=st.sampled_from([0.1, 1.0, 5.0]),
)
def test_a_table_at_an_even_step_is_read_back_as_it_was_written(
    rows: list[tuple[float, float, float]], step: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("table")
    link = one(write(folder / "a.csv", [CSV, *(f"{round(i * step, 6)},{a},{b},{c}" for i, (a, b, c) in enumerate(rows))]))
    assert link.step_seconds == pytest.approx(step)
    for name, values in zip(SERIES, zip(*rows, strict=True), strict=True):
        assert getattr(link, name) == pytest.approx(values, rel=1e-6)
    save_links([link], folder / "a.json")
    again = one(folder / "a.json")
    for name in SERIES:
        assert getattr(again, name) == pytest.approx(getattr(link, name), abs=5e-5)


# ---------------------------------------------------------------- files and folders


def test_a_folder_is_read_with_all_below_it(tmp_path: Path) -> None:
    links = load(every_form(tmp_path / "x"))
    assert tuple(sorted({link.family for link in links})) == FAMILIES
    names = [link.name for link in links]
    assert len(set(names)) == len(names) == 10
    assert {
        "mahimahi/ATT-LTE-walk",
        "cooked/norway_bus_0",
        "ucc5g/Driving/B_1",
        "cicv5g/n78/run",
        "own/lab",
        "markov-1",
    } <= set(names)
    assert [link.name for link in load(tmp_path / "x")] == names


def test_each_form_is_told_from_all_others(tmp_path: Path) -> None:
    every_form(tmp_path)
    found = set()
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file() and path.suffix not in (".md", ".json") and path.name != ".hidden":
            text = Text.read(path)
            assert sum(form.recognises(text.lines) for form in FORMATS) == 1, path
            found.add(format_of(text).name)
    assert found == {form.name for form in FORMATS}


def test_a_pair_in_a_folder_is_one_trace_and_other_files_must_be_traces(tmp_path: Path) -> None:
    every_form(tmp_path)
    write(tmp_path / "own" / "notes.txt", ["what I saw"])
    with pytest.raises(TraceError) as error:
        load(tmp_path)
    said = str(error.value)
    assert said.startswith(f"{tmp_path / 'own' / 'notes.txt'} is no link trace of a known form; known are ")
    for form in FORMATS:
        assert f"{form.name}: {form.says}" in said
    assert "synera-links" in said


def test_two_links_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        save_links([constant_link()], tmp_path / name)
    with pytest.raises(TraceError, match="two links are called 'constant-60ms'"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \n\n", "is empty"),
        (b"hello\n", "is no link trace of a known form; known are mahimahi: "),
        (bytes(range(256)), "is not text in UTF-8"),
        (gzip.compress(b"0 1\n1 2\n", mtime=0)[:-6], "its gzip is damaged"),
        (b"\x1f\x8bgarbage", "its gzip is damaged"),
        (b'{"format": "other"}', "is not a LinkFile"),
        (b"\x00\x00", "is no link trace of a known form"),
    ],
)
def test_what_is_no_link_trace_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    for place in (path, tmp_path):
        with pytest.raises(TraceError) as error:
            load(place)
        assert str(error.value).startswith(str(path))
        assert said in str(error.value)


def test_a_file_that_unpacks_to_more_than_any_trace_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("traces.links.text._LARGEST", 1000)
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(b"1\n" * 600, mtime=0))
    with pytest.raises(TraceError, match="unpacked it has more than 1000 bytes"):
        load(path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, said in (
        (tmp_path / "none", "no link trace at"),
        (tmp_path / ("x" * 300), "cannot be read"),
        (tmp_path / "loop", "cannot be read"),
        (tmp_path / "empty", "there is no link trace in this folder"),
        (Path("/dev/zero"), "not a regular file"),
    ):
        with pytest.raises(TraceError, match=said):
            load(path)


# ---------------------------------------------------------------- what is damaged

UCC5G = ucc5g_rows([1000, 2000, 3000], {0: 50.0})
DAMAGED: list[tuple[str, list[str], str]] = [
    ("x.down", ["0", "5", "10", "x", "200"], r"line 4: time in ms='x' must be a number in 0\.\.1e\+09"),
    ("x.down", ["0", "5", "10", "7", "200"], "line 4: time in ms=7 is before the 10 of the line above"),
    ("x.down", ["0", "5", "10", "", "200"], "line 4: time in ms='' must be"),
    ("x.down", ["0", "5", "99"], r"lasts 0\.099 s, and a link trace at least a step of 0\.1 s"),
    ("a", ["0 1", "1 2", "2 3", "3 nan"], r"line 4: throughput in Mbit/s='nan' must be a number in 0\.\.1e\+06"),
    ("a", ["0 1", "1 2", "2 3", "3 -1"], "line 4: throughput in Mbit/s='-1'"),
    ("a", ["0 1", "1 2", "2 3", "3 1e7"], "line 4: throughput in Mbit/s='1e7'"),
    ("a", ["0 1", "1 2", "2 3", "3"], "line 4: '3' has 1 fields, and 2 are wanted"),
    ("a", ["0 1", "1 2", "2 3", "inf 1"], "line 4: time='inf'"),
    ("a", ["0 1", "2 2", "1 3"], "line 3: time=1 is before the 2 of the line above"),
    ("a", ["5 1", "5 2"], "two rows of different times are the least"),
    ("a", ["0 1", "0.5 2"], r"lasts 0\.5 s"),
    ("a", ["0 1", "1e12 2"], "1000000 steps of 1 s are the most"),
    ("a", ["0 0", "9 0"], "downlink_mbps is 0 throughout|uplink_mbps is 0 throughout"),
    ("b.csv", [UCC5G[0]], "has no row but its header"),
    ("b.csv", [*UCC5G, UCC5G[1].replace("2019.12", "2019.13")], r"line 5: Timestamp='2019\.13.*' must be of the form"),
    ("b.csv", [*UCC5G, UCC5G[1]], "line 5: Timestamp=.* is before"),
    ("b.csv", [*UCC5G, UCC5G[3].replace("3000", "-")], "line 5: DL_bitrate='-'"),
    ("b.csv", [*UCC5G, UCC5G[3] + ",1"], "line 5: .* has 9 fields, and 8 are wanted"),
    ("b.csv", [UCC5G[0], UCC5G[1]], "no row of a download"),
    ("b.csv", [UCC5G[0], UCC5G[1].replace("50.0", "fast")], "line 2: PINGAVG='fast'"),
    ("c.txt", [CICV5G_HEADER], "has no row but its header"),
    ("c.txt", [*cicv5g_rows([16, 17]), "1721200386767 x"], "line 4: .* has 2 fields, and at least 3 are wanted"),
    ("c.txt", [*cicv5g_rows([16, 17]), "1721200386767 1 -5 3"], "line 4: delay\\(ms\\)='-5'"),
    ("c.txt", [CICV5G_HEADER, "1721200386767 1 5 3"], "all its rows are of one time"),
    ("d.csv", ["1,Mbits/sec", "2,Tbits/sec"], "line 2: unit='Tbits/sec' is not one of Mbits/sec"),
    ("d.csv", ["1,Mbits/sec", "fast,Mbits/sec"], "line 2: throughput='fast'"),
    ("d.csv", ["0,Mbits/sec", "0,bits/sec"], "is 0 throughout"),
    ("e.txt", ["1,1,1,1,1,1,1,1"] * 3 + ["1,1,1,1"], "line 4: .* has 4 fields, and 8 are wanted"),
    ("f.csv", [CSV, "0,1,1,1"], "two rows are the least"),
    ("f.csv", [CSV, "0,1,1,1", "1,1,x,1"], "line 3: uplink_mbps='x'"),
    ("f.csv", [CSV, "0,1,1,1", "1,7e5,1,1"], "line 3: rtt_ms='7e5'"),
    ("f.csv", ["time,uplink_kbps", "0,1", "1,1"], "line 1: its columns are time, uplink_kbps; write time and any of rtt_ms"),
    ("f.csv", ["time,rtt_ms,rtt_ms", "0,1,1", "1,1,1"], "line 1: .* each once"),
    ("f.csv", ["time,rtt_ms", "0,", "1,-"], "no value in any of its columns"),
]


@pytest.mark.parametrize(("name", "lines", "said"), DAMAGED)
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_row_is_named_with_its_file_line_and_value(
    tmp_path: Path, name: str, lines: list[str], said: str, packed: bool
) -> None:
    path = write(tmp_path / name, lines, packed)
    for place in (path, tmp_path):
        with pytest.raises(TraceError, match=said) as error:
            load(place)
        assert str(error.value).startswith(str(path))


@settings(max_examples=300)
@given(
    content=st.one_of(
        st.text(max_size=60), st.lists(st.text("0123456789.,- \tetimes_rn", max_size=12), max_size=6).map("\n".join)
    )
)
def test_any_text_is_read_or_refused(content: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content.encode("utf-8", "replace"))
    with suppress(TraceError):
        assert all(np.isfinite(getattr(link, name)).all() for link in load(path) for name in SERIES)


def test_figures_of_a_user_win(tmp_path: Path) -> None:
    path = write(tmp_path / "norway_bus_1", ["0 1", "2 4"])
    (link,) = load(path, Filling(rtt_ms=30.0, uplink_share=0.5))
    assert link.rtt_ms.tolist() == [30, 30]
    assert link.uplink_mbps.tolist() == [2, 2]
    assert link.filled == {"rtt_ms": "30 ms throughout: as given", "uplink_mbps": "0.5 of the downlink: as given"}
