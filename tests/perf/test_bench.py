"""What the bench script prints and writes; never how fast anything is."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np
import pytest
import torch
import tyro
from transformers import AutoModelForCausalLM

from runtime.errors import CheckpointError
from runtime.model.loading import load_decoder
from runtime.model.placement import Placement
from runtime.sampling import Sampling
from runtime.synera.knobs import Knobs
from scripts import bench
from scripts.benchmarks import device, env, exits, growth, harness, precision, sampling, stall_free, system
from scripts.benchmarks.harness import Comparison, Figure, Setting, compare, speedup, write_figures
from tests.support.process import verifier_here
from tests.support.recorded import GPU, PHONE
from traces import bundled
from traces.synera.graph import Graph, GraphSet
from traces.synera.record_models import greedy_tokens

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


@pytest.mark.parametrize(("area", "figures"), [("device", 23), ("exits", 6)])
def test_an_area_writes_its_figures(
    area: str,
    figures: int,
    pair: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bundled, "MAX_NEW_TOKENS", 6)
    monkeypatch.setattr(system, "_MOST_TOKENS", 6)
    monkeypatch.setattr(system, "verifier_process", verifier_here)
    monkeypatch.setattr(system, "_OURS", system._OURS[::3])
    monkeypatch.setattr(system, "_PEERS", system._PEERS[:2])
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


def test_sampling_counts_bytes_and_works_out_acceptance(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "MAX_NEW_TOKENS", 8)
    target = tmp_path / "figures.json"
    bench.main(bench.Arguments("sampling", json=target, pair=pair, repetitions=1))
    found = {each["name"]: each["value"] for each in json.loads(target.read_text())}
    sizes = {name: value for name, value in found.items() if "bytes" in name}
    lost = {name: value for name, value in found.items() if "acceptance" in name}
    assert {each["unit"] for each in json.loads(target.read_text())} == {"B", "%"}
    greedy, *sampled = sizes.values()
    assert 1 <= greedy <= 3  # a vocabulary of 771: two bytes an id at most, and the field's own two in four
    assert all(greedy < value < 160 for value in sampled)
    assert len(lost) == len(sampled) == 3
    assert all(-100 < value < 100 for value in lost.values())


def test_acceptance_is_worked_out_from_both_distributions(pair: Path) -> None:
    """The same model on both sides: by its whole distribution every token stands, and what is cut is lost."""
    slm = load_decoder(pair / "slm")
    answer = sampling._Answer(slm, [5, 6, 7], [], [8, 9])
    places = sampling._acceptance(answer, slm, Sampling(1.0, top_k=4))
    assert places.shape == (2, 2)
    assert places[:, 0].tolist() == pytest.approx([1, 1])
    assert (places[:, 1] < 1).all()
    assert places[:, 1].tolist() == pytest.approx([1, 1], abs=1e-4)
    hot = sampling._acceptance(answer, slm, Sampling(100.0))
    assert hot[:, 1].tolist() == pytest.approx([32 / slm.config.vocab] * 2, rel=0.5)


def test_a_peer_that_writes_another_answer_is_an_error(pair: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(pair / "slm", dtype=torch.float32)
    decoder, prompt = load_decoder(pair / "slm"), torch.tensor([5, 6, 7])
    answer = device._written(decoder, prompt)
    work, name = device._generate(model, prompt, answer)
    assert torch.equal(work(), answer)
    assert re.search(r"generate, (dynamic|static) cache$", name)
    answer[-1] += 1
    with pytest.raises(CheckpointError, match="writes another answer"):
        device._generate(model, prompt, answer)


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


def test_time_by_exit_is_of_the_answers_that_are_drafted_at_it(tiny_slm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "MAX_NEW_TOKENS", 9)
    slm, prompts = load_decoder(tiny_slm), [[5, 6, 7], [8, 9]]
    whole = [greedy_tokens(slm, prompt, 9) for prompt in prompts]
    for knobs, early in ((Knobs(), 0.0), (Knobs(exit_index=0), 1.0), (Knobs(exit_margin=0.0), 1.0)):
        answers = exits._Answers(slm, prompts, knobs)
        for _ in range(2):  # each turn begins behind the prompts again
            answers()
            assert answers.early == early
            written = [drafter._prefix[len(p) :] for drafter, p in zip(answers._drafters, prompts, strict=True)]
            assert len(answers.exits) == sum(map(len, written))
            assert (written == whole) == (early == 0.0)


def test_quality_by_exit_is_of_the_path_through_the_graph(akin_graphs: GraphSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def follow(graph: Graph, exit_index: int) -> float:
        node = 0
        while math.isnan(graph.score[node]):
            node = int(graph.exit_child[node, exit_index])
        return float(graph.score[node])

    by_exit = [[follow(graph, exit_index) for graph in akin_graphs] for exit_index in (0, 1)]
    assert by_exit[0] != by_exit[1]
    for knobs, wanted in ((Knobs(exit_index=0), by_exit[0]), (Knobs(exit_margin=0.0), by_exit[0]), (Knobs(), by_exit[1])):
        assert exits._scores(akin_graphs, knobs).tolist() == wanted
    figure = exits._quality("exit", akin_graphs, Knobs(exit_index=0))
    difference = float(np.mean(by_exit[0]) - np.mean(by_exit[1]))
    assert figure.value == pytest.approx(np.mean(by_exit[0]))
    assert f"ours minus it {difference:+.3f}" in figure.peer
    assert figure.met == (difference >= -0.05)


def test_quality_by_exit_is_shown_for_the_pair_that_was_recorded(pair: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exits, "_time", lambda name, *_: Figure(name, 1.0, "", 1.0, "higher", ""))
    monkeypatch.setattr(exits, "_quality", lambda name, *_: Figure(name, 1.0, "quality", 1.0, "higher", ""))
    for folder, quality in ((bundled.PAIR, 6), (pair, 0)):
        found = exits.measure(Setting(folder, 1, 1))
        assert len(found) == 6 + quality
        assert sum(figure.unit == "quality" for figure in found) == quality


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
    areas = [path.stem.replace("_", "-") for path in Path(bench.__file__).with_name("benchmarks").glob("[a-z]*.py")]
    named = re.search(r"{([a-z,-]+)}", re.sub(r"[│\s]", "", shown))
    assert named is not None
    assert set(named[1].split(",")) == set(areas) - {"harness", "overheads", "system", "vector", "vector-growth"}


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


def test_work_of_different_size_is_compared_by_what_it_did(fake_time: FakeTime) -> None:
    found = Comparison([1.0, 3.0], [8.0, 8.0]).per_unit(2, 4)
    assert (found.ours, found.peer) == ([0.5, 1.5], [2.0, 2.0])
    assert found.speedup == pytest.approx((4 + 2 / 1.5) / 2)


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


def test_stall_free_figures_are_of_equal_tokens_in_replay_and_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Live against a cloud and a phone that are quicker than those of the bundle: their names and tokens do not depend on that."""
    monkeypatch.setattr(stall_free, "_REPLAYED", 3)
    monkeypatch.setattr(stall_free, "verifier_process", verifier_here)
    for name, profile in {"phone": PHONE, "gpu": GPU}.items():
        profile.save(tmp_path / f"{name}.json")
    monkeypatch.setattr(bundled, "profile", lambda name: tmp_path / f"{name}.json")
    target = tmp_path / "figures.json"
    bench.main(tyro.cli(bench.Arguments, args=["stall-free", "--repetitions", "1", "--json", str(target)]))
    found = json.loads(target.read_text())
    assert len(found) == len({each["name"] for each in found}) == 6
    assert all("same tokens" in each["peer"] and "of guesses right" in each["peer"] for each in found)
    assert sum("live" in each["name"] for each in found) == 2
    assert "stall-free" in capsys.readouterr().out


def test_a_cut_of_answers_that_differ_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count()
    found = stall_free._answered

    def other(*given: Any) -> Any:
        return replace(found(*given), tokens=(next(numbers),))

    monkeypatch.setattr(stall_free, "_answered", other)
    monkeypatch.setattr(stall_free, "_REPLAYED", 2)
    with pytest.raises(AssertionError, match="2 of 2 answers differ"):
        stall_free.measure(Setting(Path("unused"), 1, 1))


def test_growth_trains_on_a_pair_of_its_own_and_says_what_it_cost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(growth, "_STEPS", 64)
    monkeypatch.setattr(growth, "_PROMPTS", 4)
    monkeypatch.setattr(growth, "_VALIDATION", 4)
    monkeypatch.setattr(growth, "_NEW_TOKENS", 8)
    monkeypatch.setattr(growth, "_ENVS", 2)
    monkeypatch.setattr(growth, "_OWN", replace(growth._OWN, minibatch=32, epochs=1, hidden=8))
    figures = {f.name: f for f in growth.measure(Setting(tmp_path, 2, 1))}
    assert {"wall time", "nodes run", "share of the time in models", "mean wave", "peak memory"} <= set(figures)
    assert figures["nodes run"].value > 20
    assert 0 < figures["share of the time in models"].value < 1
    assert figures["mean wave"].value >= 1
    said = capsys.readouterr().out
    assert "rate of new nodes" in said
    assert [line.split("│")[1].strip() for line in said.splitlines() if " .. " in line] == ["0 ..", "64 .."]
