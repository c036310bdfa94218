"""`synera inspect-trace`: what a file holds, one prompt's graph, and what controllers keep inside it."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents.coverage import swept
from runtime.errors import SettingError
from scripts import inspect_trace
from scripts.inspect_trace import Arguments, Inspection
from tests.support.cuts import likeliest
from tests.support.recorded import Recorded, recorded, trained
from traces.errors import TraceError
from traces.schemas import read_json
from traces.synera.graph import GraphSet

HOSTILE = "\x1b[2J[bold]\u202e"


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


@pytest.fixture
def files(pair: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with whole and open graphs."""
    monkeypatch.chdir(tmp_path)
    pair.graphs.save(tmp_path / "test.safetensors")
    for name in ("train", "validation"):
        likeliest(pair.graphs, 0.5).save(tmp_path / f"{name}.safetensors")
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], graphs: str = "test.safetensors", **more: Any) -> str:
    capsys.readouterr()
    inspect_trace.main(Arguments(Path(graphs), **more))
    return capsys.readouterr().out


def test_a_file_is_its_figures(files: Path, pair: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys)
    meta = pair.graphs.meta
    for each in (meta.slm_fingerprint, meta.llm_fingerprint, meta.tokenizer_hash, "node_budget 6000", "closed 1.0000"):
        assert each in said
    assert f"{pair.graphs.nodes} nodes" in said
    assert "0 lead out (0.00%)" in said
    assert f"6 {meta.split} prompts, answers of up to 10 tokens" in said
    for kind in dict.fromkeys(meta.kinds):
        assert re.search(rf"│ {kind} +│ +{meta.kinds.count(kind)} │ +{meta.kinds.count(kind)} │", said)
    assert said.endswith("next: synera inspect-trace test.safetensors --coverage\n")
    assert "0 lead out" not in shown(capsys, "train.safetensors")


def test_a_prompt_s_graph_is_drawn_in_so_many_lines(files: Path, pair: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    graphs = pair.graphs
    said = shown(capsys, prompt=2, lines=5).splitlines()
    assert said.pop(-2) == "picture: runs/graph.png"
    assert Path("runs/graph.png").stat().st_size > 10_000
    assert said[0] == f"prompt 2 ({graphs[1].kind}), {len(graphs[1])} nodes: {graphs[1].prompt!r}"
    drawn = [line for line in said if re.match(r"[│├└─ ]*\[(prompt|layer|LLM)", line)]
    assert 1 < len(drawn) <= 5
    assert drawn[0].startswith("[prompt]")
    with pytest.raises(SettingError, match="the file has no prompt 7; it has 6 prompts"):
        shown(capsys, prompt=7)


def test_text_of_others_acts_on_no_terminal(files: Path, pair: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    meta = pair.graphs.meta
    texts = dict.fromkeys(meta.texts, HOSTILE)
    hostile = replace(meta, prompts=(HOSTILE,) * 6, kinds=(HOSTILE,) * 6, texts=texts, notes={HOSTILE: HOSTILE}, split=HOSTILE)
    GraphSet(hostile, pair.graphs._arrays).save(files / "hostile.safetensors")
    for more in ({}, {"prompt": 1}):
        said = shown(capsys, "hostile.safetensors", **more)
        assert not {"\x1b", "\u202e"} & set(said)
        assert "[bold]" in said


def test_coverage_is_a_row_a_controller(files: Path, capsys: pytest.CaptureFixture[str], tiny_llm: Path) -> None:
    bundle = trained(tiny_llm) / "bundle"
    said = shown(capsys, coverage=True, bundle=(bundle,), answers=6, json=Path("whole.json"))
    found = read_json("whole.json", Inspection, "no figures")
    assert set(found.coverage) == {*swept(recorded(tiny_llm).env().schema), bundle.parent.name}
    assert {each.uncovered for each in found.coverage.values()} == {0}
    assert f"all of {len(found.coverage)} controllers keep 99% of their decisions or more inside" in said
    for name in found.coverage:
        assert re.search(rf"│ {re.escape(name)} +│ +\d+ │ +0 │ 1\.0000 \[1\.0000, 1\.0000\] │", said), name
    next_line = next(line for line in said.splitlines() if line.startswith("next:"))
    assert next_line == f"next: synera evaluate --graphs test.safetensors --bundle {shlex.quote(str(bundle))}"


def test_what_is_short_is_said_with_the_way_out(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, "train.safetensors", coverage=True, answers=6, json=Path("open.json"))
    found = read_json("open.json", Inspection, "no figures").coverage
    short = [name for name, each in found.items() if each.steps_inside.mean < 0.99]
    worst = min(found, key=lambda name: found[name].steps_inside.mean)
    assert len(short) > 3
    assert (
        f"{len(short)} of {len(found)} controllers keep less than 99% of their decisions inside; the least is {worst} with"
        in said
    )
    assert "record with a larger node budget, or let them grow" in said
    assert said.endswith("next: synera train --graphs .\n")


def test_the_figures_have_a_schema_and_are_the_same_by_the_same_seed(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def figures(**more: Any) -> Inspection:
        shown(capsys, "train.safetensors", json=Path("out.json"), **more)
        return read_json("out.json", Inspection, "no figures")

    found = figures()
    assert (found.graphs, found.coverage, found.format_version) == ("train.safetensors", {}, 1)
    assert found.figures.prompts == 6
    assert found.stated_coverage["closed"] == 1.0  # as the recorder said it, before they were cut
    assert figures(coverage=True, answers=6) == figures(coverage=True, answers=6)
    stated = json.loads(Path("out.json").read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    Path("out.json").write_text(json.dumps(stated | {"more": 1}))
    with pytest.raises(TraceError, match="more"):
        read_json("out.json", Inspection, "no figures")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"bundle": (Path("b"),)}, "add --coverage"),
        ({"json": Path("x.safetensors")}, "a file of its own"),
        ({"lines": 0}, "lines=0"),
        ({"prompt": 0}, "prompt=0"),
        ({"answers": 0}, "answers=0"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        Arguments(Path("x.safetensors"), **wrong)


# ---------------------------------------------------------------- workloads


@pytest.fixture
def workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the current folder, requests with a burst."""
    monkeypatch.chdir(tmp_path)
    rows = "".join(f"{at},{100 + at},{1 + at % 3}\n" for at in (0, 1, 2, 3, 3, 3, 20))
    (tmp_path / "some.csv").write_text(f"arrival_seconds,context_tokens,generated_tokens\n{rows}")
    return tmp_path


def test_a_workload_is_its_figures_and_a_picture(workload: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = shown(capsys, "some.csv", json=Path("w.json"))
    assert "some: some.csv." in said
    assert "7 requests in 20 s, 0.3 a second" in said
    assert "context tokens: mean 105, median 103" in said
    assert (workload / "runs/workload.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((workload / "w.json").read_text())
    assert (found["requests"], found["span_seconds"], found["generated"]["most"]) == (7, 20.0, 3.0)
    assert found["gap_cv"] == pytest.approx(1.84, abs=0.01)
    assert "next: synera validate-load --workload some.csv\n      synera evaluate --workload some.csv\n" in said


def test_a_workload_of_one_request_is_shown_too(workload: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (workload / "one.csv").write_text("arrival_seconds,context_tokens,generated_tokens\n5,1,0\n")
    said = shown(capsys, "one.csv", picture=Path("one.svg"), json=Path("w.json"))
    assert "1 requests in 0 s" in said
    assert json.loads((workload / "w.json").read_text())["gap_cv"] is None
    assert b"<svg" in (workload / "one.svg").read_bytes()


@pytest.mark.parametrize(
    ("path", "wrong", "said"),
    [
        ("w.csv", {"prompt": 1}, "of a graph file"),
        ("w.csv", {"coverage": True}, "of a graph file"),
        ("w.csv", {"picture": Path("w.txt")}, "must be a file whose name ends in"),
        ("w.csv", {"picture": Path("a.png"), "json": Path("a.png")}, "a file of its own"),
        ("g.safetensors", {"picture": Path("a.png")}, "name that with --prompt"),
    ],
)
def test_what_is_of_the_other_kind_is_refused(path: str, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        Arguments(Path(path), **wrong)
