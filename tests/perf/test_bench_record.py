"""What `bench record` compares and prints; never how fast anything is."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from runtime.errors import CheckpointError, SettingError
from runtime.model.tree_kv import TreeKV
from runtime.synera.lens import Lens
from scripts import bench
from scripts.benchmarks import _recorders, record
from scripts.benchmarks.harness import Setting
from tests.support.graphs import tiny_prompts
from traces import bundled
from traces.synera.growing_graph import GrowingGraph
from traces.synera.record_batch import Batch
from traces.synera.record_models import Models


@pytest.fixture
def pair(tmp_path: Path, tiny_slm: Path, tiny_llm: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "pair"
    folder.mkdir()
    (folder / "slm").symlink_to(tiny_slm)
    (folder / "llm").symlink_to(tiny_llm)
    monkeypatch.setattr(bundled, "MAX_NEW_TOKENS", 6)
    for name, little in (("_PER_KIND", 1), ("_NODES", 20), ("_FEW_NODES", 5), ("_FEW", 2)):
        monkeypatch.setattr(record, name, little)
    return folder


def figures(pair: Path, tmp_path: Path, before: str) -> dict[str, dict[str, Any]]:
    target = tmp_path / "figures.json"
    bench.main(bench.Arguments("record", json=target, pair=pair, repetitions=1, before=before))
    return {each["name"]: each for each in json.loads(target.read_text())}


def test_a_folder_with_a_recorder_takes_turns_with_ours_by_the_node(pair: Path, tmp_path: Path) -> None:
    found = figures(pair, tmp_path, str(_recorders.ROOT))
    assert list(found) == [
        "recording 4 prompts, by the node",
        "nodes for each of 1000 prompts in 10 minutes",
        "recording 80 nodes, by the node, one thread",
        "the recorder's time outside layers and heads",
    ]
    turns, minutes, transformers, outside = found.values()
    assert f"the recorder of {_recorders.ROOT}" in turns["peer"]
    assert "with 1 worker(s), at 80 nodes of 4 prompts" in minutes["peer"]
    assert "both models node by node over 10 of the nodes" in transformers["peer"]
    assert 0 < outside["value"] < 100
    shares = [float(word) for word in outside["peer"].replace("%", "").replace(",", "").split() if word.isdigit()]
    assert len(shares) == 4
    assert sum(shares) + outside["value"] == pytest.approx(100, abs=2.5)
    assert all(math.isfinite(each["value"]) for each in found.values())


def test_without_a_history_the_recorder_before_is_left_out_and_that_is_said(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_recorders, "_git", lambda *arguments: b"")
    found = figures(pair, tmp_path, "")
    assert len(found) == 3
    assert not any("before" in each["peer"] for each in found.values())
    assert "the recorder before this one is left out: its history is not here" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("named", ["nope", "--help", "nowhere/at/all", "x" * 300, "a\0b"])
def test_what_is_no_state_of_the_project_is_refused_before_anything_is_recorded(named: str) -> None:
    with pytest.raises(SettingError, match=r"before=.* is no commit of .* and no folder"), _recorders.before(named):
        pass


def test_only_the_recorder_is_held_against_an_earlier_state() -> None:
    with pytest.raises(SettingError, match="before='HEAD' is for the area record, not for device"):
        bench.Arguments("device", before="HEAD")


def test_the_state_before_is_the_last_with_the_recorder_that_was_replaced() -> None:
    with _recorders.before("") as found:
        if found is None:
            pytest.skip("no history here")
        assert (found.root / _recorders._REPLACED).is_file()
        assert found.name.startswith("commit ")
        assert not (_recorders.ROOT / _recorders._REPLACED).exists()
    assert not found.root.exists()


def test_a_recorder_that_fails_is_named(pair: Path, tmp_path: Path) -> None:
    task = _recorders.Task(pair, tiny_prompts()[:1], 4, 10, 1)
    (tmp_path / "traces").mkdir()
    (tmp_path / "traces" / "__init__.py").write_text("raise RuntimeError('nothing here')")
    broken = _recorders.recorder_at(tmp_path, task, "a broken state")
    with broken as recorder, pytest.raises(SettingError, match="a broken state could not record"):
        recorder()
    with _recorders.recorder_at(_recorders.ROOT, task, "ours") as recorder:
        recorder()
        assert recorder.nodes == 10


@pytest.fixture
def graph(tiny_models: Models) -> GrowingGraph:
    batch = Batch(tiny_models, Lens.neutral(2, 32), tiny_prompts()[:1], 6, 40)
    return batch.expand()[0]


def test_nodes_come_depth_first_each_after_its_own(graph: GrowingGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "_FEW_NODES", 40)
    nodes = record._beginning(graph)
    assert sorted(nodes) == np.flatnonzero(graph.ran[: len(graph)]).tolist()
    for before, node in pairwise(nodes):
        assert graph.parent[node] in graph.path(before)
    monkeypatch.setattr(record, "_FEW_NODES", 7)
    assert record._beginning(graph) == nodes[:7]


def test_transformers_must_say_the_same_tokens(graph: GrowingGraph, tiny_slm: Path, tiny_llm: Path) -> None:
    slm, llm = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in (tiny_slm, tiny_llm))
    nodes = record._beginning(graph)
    record._walk(graph, nodes, slm, llm, [1, 2])
    for name in ("exit_token", "llm_token"):
        kept = getattr(graph, name)[nodes[-1]].copy()
        getattr(graph, name)[nodes[-1]] += 1
        with pytest.raises(CheckpointError, match="says other tokens than this recorder"):
            record._walk(graph, nodes, slm, llm, [1, 2])
        getattr(graph, name)[nodes[-1]] = kept


def test_time_is_counted_once_and_methods_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    class Clockwork:
        def outer(self) -> None:
            now[0] += 1.0
            self.inner()

        def inner(self) -> None:
            now[0] += 10.0

    monkeypatch.setattr(record, "perf_counter", lambda: now[0])
    plain, spent, work = dict(vars(Clockwork)), {"a": 0.0, "b": 0.0}, Clockwork()
    with (
        record._timed(Clockwork, "inner", lambda _: "b", spent),
        record._timed(Clockwork, "outer", lambda _: "a", spent, inner="b"),
    ):
        work.outer()
        work.inner()
    assert spent == {"a": 1.0, "b": 20.0}
    assert dict(vars(Clockwork)) == plain


def test_nothing_of_the_models_stays_changed(pair: Path, tiny_models: Models) -> None:
    plain = TreeKV.attend
    task = _recorders.Task(pair, tiny_prompts()[:1], 4, 10, 1)
    assert record._outside_models(tiny_models, task).unit == "%"
    assert TreeKV.attend is plain
    assert Setting(pair, 1, 1).before == ""
