"""Commands over graphs that grow: when they do, with which models, what is said and what is kept."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tyro

from runtime.errors import SettingError
from scripts import evaluate, train
from scripts._evaluation import Evaluation
from scripts._growth import Grow, Grower
from scripts._world import Agent
from tests.support.growing import bare
from tests.support.recorded import GPU, PHONE, Recorded, recorded, tiny_training
from traces import bundled
from traces.errors import TraceError
from traces.schemas import read_json
from traces.synera.graph import GraphMeta, GraphSet
from traces.synera.growing import GrowingGraphs


@pytest.fixture(scope="module")
def pair(tiny_llm: Path) -> Recorded:
    return recorded(tiny_llm)


def naming(graphs: GraphSet, **notes: object) -> GraphSet:
    """The graphs with other notes."""
    return with_meta(graphs, notes=graphs.meta.notes | {name: str(value) for name, value in notes.items()})


def with_meta(graphs: GraphSet, **changes: Any) -> GraphSet:
    meta: GraphMeta = replace(graphs.meta, **changes)
    return GraphSet(meta, graphs._arrays, graphs.path)


@pytest.fixture(scope="module")
def opened(pair: Recorded) -> GraphSet:
    """Open graphs that name their models."""
    return naming(bare(pair.graphs), slm=pair.slm, llm=pair.llm)


@pytest.fixture
def files(opened: GraphSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with open graphs and profiles."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "validation", "test"):
        opened.save(tmp_path / "graphs" / f"{split}.safetensors")
    PHONE.save(tmp_path / "phone.json")
    GPU.save(tmp_path / "gpu.json")
    return tmp_path


WORLD: dict[str, Any] = {"device_profile": Path("phone.json"), "cloud_profile": Path("gpu.json")}


# ---------------------------------------------------------------- when, and with which models


def test_by_itself_an_open_set_grows_whose_models_are_named_and_there(
    opened: GraphSet, pair: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    grown = Grower("auto")(opened)
    assert isinstance(grown, GrowingGraphs)
    assert grown.runs.models.slm_fingerprint == pair.graphs.meta.slm_fingerprint
    assert "open graphs grow, with both models in float32 on cpu" in capsys.readouterr().out
    whole = naming(pair.graphs, slm=pair.slm, llm=pair.llm)
    unnamed = bare(pair.graphs)
    for graphs in (whole, unnamed):
        assert Grower("auto")(graphs) is graphs
    assert capsys.readouterr().out == ""
    assert Grower("no")(opened) is opened


def test_models_that_are_named_but_gone_are_said_to_be(
    opened: GraphSet, pair: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = naming(opened, llm="/gone/llm")
    assert Grower("auto")(moved) is moved
    assert "note: the test graphs are open, and the models that they name are not there (/gone/llm)" in capsys.readouterr().out
    assert isinstance(Grower("auto", llm=pair.llm)(moved), GrowingGraphs)


def test_where_the_models_are_may_be_said(pair: Recorded) -> None:
    unnamed = bare(pair.graphs)
    assert isinstance(Grower("auto", pair.slm, pair.llm)(unnamed), GrowingGraphs)
    assert isinstance(Grower("yes", pair.slm, pair.llm)(pair.graphs), GrowingGraphs)
    with pytest.raises(SettingError, match=r"does not say where the SLM is .* name its folder with --slm"):
        Grower("yes")(unnamed)
    with pytest.raises(SettingError, match="name its folder with --llm"):
        Grower("yes", slm=pair.slm)(unnamed)
    with pytest.raises(SettingError, match="grow='maybe' is not one of auto, yes, no"):
        Grower("maybe")  # type: ignore[arg-type]


def test_other_models_are_refused(opened: GraphSet, pair: Recorded) -> None:
    with pytest.raises(TraceError, match="recorded with the SLM"):
        Grower("yes", pair.llm, pair.slm)(opened)


def test_the_bundled_graphs_grow_with_the_bundled_pair_where_answers_are_judged() -> None:
    grower = Grower("auto")
    grown = grower(GraphSet.load(bundled.graphs("test")))
    assert isinstance(grown, GrowingGraphs)
    graph, node = grown[0], 0
    while graph.score[node] != graph.score[node]:  # NaN
        graph.know(node)
        node = graph.reach(node, int(graph.exit_token[node, 0]))
    assert 0 <= graph.score[node] <= 1
    training = GraphSet.load(bundled.graphs("train"))
    assert grower(training, learned_on=True) is training  # it holds nearly all, and is several times as fast
    assert isinstance(grower(training), GrowingGraphs)
    assert isinstance(Grower("yes")(training, learned_on=True), GrowingGraphs)


def test_graphs_to_train_on_grow_where_they_hold_little(opened: GraphSet) -> None:
    def covering(**coverage: float) -> GraphSet:
        return with_meta(opened, coverage={"closed": 0.5} | coverage)

    for little in (covering(random_steps=0.9), covering()):
        assert isinstance(Grower("auto")(little, learned_on=True), GrowingGraphs)
    much = covering(random_steps=0.97)
    assert Grower("auto")(much, learned_on=True) is much
    assert isinstance(Grower("auto")(much), GrowingGraphs)


def test_sets_share_the_models(opened: GraphSet) -> None:
    grower = Grower("auto")
    one, other = grower(opened), grower(with_meta(opened, split="train"))
    assert isinstance(one, GrowingGraphs)
    assert isinstance(other, GrowingGraphs)
    assert one.runs is other.runs


# ---------------------------------------------------------------- train and evaluate


def trained(**more: Any) -> None:
    train.main(train.Arguments(**({"name": "mine", "graphs": Path("graphs"), **tiny_training(Path("."))} | WORLD | more)))


def test_a_training_keeps_what_its_graphs_have_grown_to_and_a_later_one_goes_on_from_there(
    files: Path, opened: GraphSet, pair: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    trained()
    said = capsys.readouterr().out
    added = re.search(
        r"^grown: train by (\d+) nodes, validation by (\d+) nodes; \d+ waves of [\d.]+ nodes, ", said, re.MULTILINE
    )
    assert added
    growth = json.loads(Path("runs/mine/config.json").read_text())["growth"]
    assert growth["nodes_run"] == int(added[1]) > 100
    for split in ("train", "validation"):
        kept = GraphSet.load(Path("runs/mine/graphs") / f"{split}.safetensors")
        assert opened.nodes < kept.nodes <= pair.graphs.nodes
        assert kept.meta.notes["slm"] == str(pair.slm)
        assert kept.meta.coverage["closed"] < 1
    trained(name="again", graphs=Path("runs/mine/graphs"))
    again = json.loads(Path("runs/again/config.json").read_text())["growth"]
    assert again["nodes_run"] < growth["nodes_run"] / 2
    assert again["nodes_run"] < again["nodes"]


def test_they_need_not_be_kept_and_need_not_grow(files: Path) -> None:
    trained(save_graphs=False)
    kept = ["bundle", "checkpoint.safetensors", "config.json", "tb", "validation.jsonl"]
    assert sorted(p.name for p in Path("runs/mine").iterdir()) == kept
    with pytest.raises(TraceError, match=r"of none of the 6 prompts .* the first chunk was recorded"):
        trained(grow="no")


@pytest.mark.parametrize("agent", ["ppo", "counterfactual"])
def test_a_training_that_is_resumed_goes_on_from_what_its_graphs_had_grown_to(
    agent: Agent, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    own: dict[str, Any] = {"agent": agent}
    if agent == "counterfactual":
        changes = ("hidden=8", "answers=6", "imitation=3", "explore_every=2", "explore_answers=8")
        own |= {"settings": None, "set": changes, "steps": 4, "validate_every": 2, "envs": None}
    with monkeypatch.context() as patched:
        patched.setattr("agents.learning.run.export_bundle", interrupted)
        patched.setattr("agents.counterfactual.run.export_module", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(**own)
    line = re.search(r"^go on: synera train (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert line
    (part,) = Path("runs").iterdir()
    kept = {path.name: GraphSet.load(path).nodes for path in (part / "graphs").iterdir()}
    train.main(tyro.cli(train.Arguments, args=shlex.split(line[1])))
    assert "grown: train by 0 nodes, validation by 0 nodes;" in capsys.readouterr().out
    assert min(kept.values()) > 100
    assert {path.name: GraphSet.load(path).nodes for path in Path("runs/mine/graphs").iterdir()} == kept


def test_graphs_that_had_grown_from_other_prompts_are_refused(opened: GraphSet, tmp_path: Path) -> None:
    others = with_meta(opened, prompts=tuple(f"{prompt}?" for prompt in opened.meta.prompts))
    others.save(tmp_path / "others.safetensors")
    with pytest.raises(
        SettingError, match=r"others\.safetensors has grown from other prompts .* name the same graphs as before"
    ):
        Grower("auto")(opened, grown=tmp_path / "others.safetensors")
    assert Grower("no")(opened, grown=tmp_path / "others.safetensors") is opened


def test_what_comes_next_names_what_was_given(files: Path, pair: Recorded) -> None:
    arguments = train.Arguments(graphs=Path("graphs"), grow="yes", slm=pair.slm, llm=pair.llm)
    line, _ = train._next(arguments, Path("b"))
    assert f"--grow yes --slm {pair.slm} --llm {pair.llm}" in line


def test_an_evaluation_over_graphs_that_grow_is_one_over_recorded_ones(
    files: Path, pair: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluated(grow: Grow, **more: Any) -> Evaluation:
        arguments = {"graphs": Path("graphs/test.safetensors"), "answers": 12, "json": Path("out.json"), "grow": grow}
        evaluate.main(evaluate.Arguments(**(arguments | WORLD | more)))
        return read_json("out.json", Evaluation, "no figures")

    grown = evaluated("auto")
    said = capsys.readouterr().out
    assert "grown: test by " in said
    assert f"synera serve --model {pair.llm}" in said
    pair.graphs.save(files / "graphs" / "test.safetensors")
    whole = evaluated("no")
    assert set(grown.controllers) == set(whole.controllers)
    for name, one in grown.controllers.items():
        other = whole.controllers[name]
        assert one.covered_answers == other.covered_answers == 12
        # The task scores what is grown here; what the pair recorded was scored by its agreement with the LLM.
        for metric in one.means.keys() - {name for name in one.means if name.startswith(("quality", "reward"))}:
            assert one.means[metric] == pytest.approx(other.means[metric], abs=1e-9), (name, metric)
