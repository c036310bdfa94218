"""What the bench script prints and writes; never how fast anything is."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from statistics import median
from typing import Literal

import pytest
import torch
import tyro

from runtime.model.placement import Placement
from scripts import bench
from scripts.benchmarks import env, harness, precision
from scripts.benchmarks.harness import Comparison, Figure, Setting, compare, speedup, write_figures

FIELDS = {"name", "value", "unit", "goal", "better", "peer"}


@pytest.fixture
def pair(tmp_path: Path, tiny_slm: Path, tiny_llm: Path) -> Path:
    folder = tmp_path / "pair"
    folder.mkdir()
    (folder / "slm").symlink_to(tiny_slm)
    (folder / "llm").symlink_to(tiny_llm)
    return folder


class FakeTime:
    """A counter of seconds that work advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def fake_time(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(harness, "perf_counter", fake)
    return fake


@pytest.mark.parametrize(("area", "figures"), [("device", 7), ("cloud", 2)])
def test_an_area_writes_its_figures(
    area: str, figures: int, pair: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "deep" / "figures.json"
    bench.main(tyro.cli(bench.Arguments, args=[area, "--pair", str(pair), "--repetitions", "1", "--json", str(target)]))
    found = json.loads(target.read_text())
    assert len(found) == figures
    assert len({each["name"] for each in found}) == figures
    for each in found:
        assert set(each) == FIELDS
        assert math.isfinite(each["value"])
        assert each["value"] > 0
        assert each["better"] in ("higher", "lower")
        assert " ms, ours " in each["peer"]
    assert list(target.parent.iterdir()) == [target]  # nothing partial is left
    assert "peer and medians" in capsys.readouterr().out


def test_precision_counts_differences_for_each_type_and_device(pair: Path, tmp_path: Path) -> None:
    target = tmp_path / "figures.json"
    bench.main(bench.Arguments("precision", json=target, pair=pair, repetitions=1))
    found = json.loads(target.read_text())
    assert len({each["name"] for each in found}) == len(found)
    placements = {each["name"].split(":")[0] for each in found}
    assert placements >= {"bfloat16 on cpu", "float16 on cpu"}
    assert {p for p in placements if "cuda" in p} == (
        {"float32 on cuda", "bfloat16 on cuda"} if torch.cuda.is_available() else set()
    )
    assert len(found) == 6 * len(placements)
    for each in found:
        assert set(each) == FIELDS
        assert (each["unit"], each["better"]) == ("%", "lower")
        different, of = map(int, re.search(r": (\d+) of (\d+) differ$", each["peer"]).groups())
        assert each["value"] == pytest.approx(100 * different / of)
    bfloat16 = {each["name"].split(": ")[1]: each["value"] for each in found if each["name"].startswith("bfloat16 on cpu")}
    assert 0 < bfloat16["tokens of the answers it writes itself, both models"] <= 100  # random models are unsure of all


def test_precision_finds_nothing_where_nothing_differs_and_each_thing_that_does(pair: Path) -> None:
    prompts = ["the river .", "a bill ."]
    exact = {name: precision._answers(pair / name, prompts) for name in ("slm", "llm")}
    assert [f.value for f in precision._against(exact, pair, Placement())] == [0.0] * 6
    said = exact["slm"][0].said
    said.token[0, 0] += 1
    said.confidence[0, 0] += 0.2 if said.confidence[0, 0] < 0.5 else -0.2  # past two thresholds
    exact["llm"][1].said.token[3] += 1
    llm, slm, decisions, shapes, drifted, answers = precision._against(exact, pair, Placement())
    assert [f.peer.split(": ")[1].split(" of ")[0] for f in (llm, slm, decisions, shapes, drifted, answers)] == list("112000")
    assert not llm.met


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [([1, 2, 3], [1, 2, 3], 0), ([1, 2, 3], [1, 9, 3], 1), ([1, 2], [1, 2, 3, 4], 2), ([5, 1, 2], [1, 2], 3)],
)
def test_drift_is_counted_place_by_place(one: list[int], other: list[int], wanted: int) -> None:
    assert int(precision._differing(one, other).sum()) == int(precision._differing(other, one).sum()) == wanted
    assert precision._differing(one, other).numel() == max(len(one), len(other))


def test_an_area_without_figures_is_an_error_and_writes_nothing(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(env, "measure", lambda setting: [])
    with pytest.raises(ValueError, match="'env' has no figures"):
        bench.main(bench.Arguments("env", json=tmp_path / "figures.json", pair=pair))
    assert not (tmp_path / "figures.json").exists()


def test_help_shows_examples_and_every_area(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        tyro.cli(bench.Arguments, description=bench.__doc__, args=["--help"])
    shown = capsys.readouterr().out
    assert left.value.code == 0
    assert "synera bench device" in shown
    assert "{device,cloud,env,precision,faults}" in shown


@pytest.mark.parametrize("name", ["repetitions", "threads"])
def test_counts_below_one_are_shown(name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}=0 must be a number in 1\.\."):
        bench.Arguments("device", **{name: 0})


# ---------------------------------------------------------------- harness


def test_both_take_turns_and_each_goes_first_every_other_time(fake_time: FakeTime) -> None:
    order = []
    compare(lambda: order.append("ours"), lambda: order.append("peer"), repetitions=3)
    assert order == ["ours", "peer", *("ours", "peer"), *("peer", "ours"), *("ours", "peer")]  # the first two warm up


def test_speedup_is_the_median_of_the_turns(fake_time: FakeTime) -> None:
    """A machine that slows down over the run slows both, and one slow turn of one side changes nothing."""
    turns = {"ours": 0, "peer": 0}

    def work(name: str, seconds: float) -> None:
        turn = turns[name] = turns[name] + 1
        stall = 100.0 if (name, turn) == ("ours", 3) else 0.0
        fake_time.now += seconds * turn + stall

    found = compare(lambda: work("ours", 1.0), lambda: work("peer", 3.0), repetitions=5)
    assert found.speedup == pytest.approx(3.0)
    assert found.ours == [2.0, 103.0, 4.0, 5.0, 6.0]
    assert found.describe("them") == f"them: {3e3 * 4:.3f} ms, ours {1e3 * median(found.ours):.3f} ms"


def test_a_speedup_names_its_peer(fake_time: FakeTime) -> None:
    def work(seconds: float) -> None:
        fake_time.now += seconds

    figure = speedup("x", lambda: work(1), lambda: work(2), "long way", Setting(Path(), 3, 1), goal=1.5)
    assert (figure.value, figure.unit, figure.better, figure.met) == (2.0, "x as fast", "higher", True)
    assert figure.peer == "long way: 2000.000 ms, ours 1000.000 ms"


@pytest.mark.parametrize(
    ("better", "value", "met"), [("higher", 2.0, True), ("higher", 0.9, False), ("lower", 0.9, True), ("lower", 2.0, False)]
)
def test_goals_know_which_way_is_better(better: Literal["higher", "lower"], value: float, met: bool) -> None:
    assert Figure("x", value, "s", 1.0, better, "p").met == met


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "figures.json"
    write_figures([Figure("x", 1.0, "s", 1.0, "lower", "p")], path)
    before = path.read_text()

    def broken(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_figures([], path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_comparison_needs_both_sides() -> None:
    with pytest.raises(ValueError):
        Comparison([1.0], [1.0, 2.0]).speedup
