"""`synera record` for one's own models: what is written into graphs, what is told beforehand, and that no path is a dead end."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.errors import SettingError
from runtime.model import chat
from runtime.model.frame import Frame
from scripts import record
from synera_env.synera.replay import SyneraReplayEnv
from tests.support.own_pair import OwnPair, save_pair, write_prompts
from traces.synera import record_cost
from traces.synera.graph import GraphSet
from traces.tasks.scoring import scorer_of
from traces.tasks.splits import own_prompts


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> OwnPair:
    return save_pair(tmp_path_factory.mktemp("pair"), "Llama")


def recorded(folder: Path, pair: OwnPair, prompts: Path, **more: Any) -> GraphSet:
    settings = {"splits": ("test",), "max_new_tokens": 3, "threads": 1} | more
    record.main(record.Arguments(pair.slm, pair.llm, folder / "graphs", prompts=prompts, **settings))
    return GraphSet.load(folder / "graphs" / f"{settings['splits'][0]}.safetensors")


def test_references_are_written_down_and_score_by_default(
    pair: OwnPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 12)
    meta = recorded(tmp_path, pair, prompts).meta
    assert "answers are scored by token-f1, against the reference\n" in capsys.readouterr().out
    wanted = {p.text: p.reference for p in own_prompts(prompts)["test"]}
    assert dict(zip(meta.prompts, meta.references, strict=True)) == wanted
    assert (meta.scorer, meta.frame) == ("token-f1", {})
    assert scorer_of(meta)(meta.prompts[0], meta.references[0]) == 1.0


def test_without_references_answers_are_compared_with_the_llm_s_own(
    pair: OwnPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("\n".join(f"What is {n} times 7?" for n in range(12)))
    graphs = recorded(tmp_path, pair, tmp_path / "prompts.txt", splits=("train", "validation"), max_new_tokens=5)
    assert "answers are scored by agreement-f1, against the LLM's own\n" in capsys.readouterr().out
    assert graphs.meta.scorer == "agreement-f1"
    for graph, reference in zip(graphs, graphs.meta.references, strict=True):
        node = 0
        while np.isnan(graph.score[node]):
            node = int(graph.llm_child[node])
        assert graph.score[node] == 1.0
        assert scorer_of(graphs.meta)(graph.prompt, reference) == 1.0
    scores = np.concatenate([graph.score for graph in graphs])
    assert len(np.unique(scores[~np.isnan(scores)])) > 1


def test_a_function_of_one_s_own_scores_and_is_named_in_the_graphs(
    pair: OwnPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_score_of_answers.py").write_text(
        "def score(prompt, answer, reference):\n    return len(answer) % 7 / 7 if reference else 1.0\n"
    )
    name = "my_score_of_answers:score"
    graphs = recorded(tmp_path, pair, write_prompts(tmp_path / "prompts.jsonl", 8), score=name)
    assert graphs.meta.scorer == name
    scores = np.concatenate([graph.score for graph in graphs])
    assert set(np.round(7 * scores[~np.isnan(scores)])) <= set(range(7))
    with pytest.raises(SettingError, match="because a file names it"):
        scorer_of(graphs.meta)


def test_special_tokens_of_the_tokenizer_can_be_left_out(
    pair: OwnPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 8)
    with_bos = recorded(tmp_path, pair, prompts)
    without = recorded(tmp_path, pair, prompts, bos=False)
    assert Frame.of(without.meta.frame) == Frame(special_tokens=False)
    assert "prompts are read as written, without special tokens" in capsys.readouterr().out
    for one, other in zip(with_bos, without, strict=True):
        assert one.prompt_tokens.tolist() == [0, *other.prompt_tokens.tolist()]
    assert SyneraReplayEnv(without).deployment().frame == Frame(special_tokens=False)


def test_a_pair_that_never_agrees_is_recorded_all_the_same(
    pair: OwnPair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its graphs stay open within any budget: they are kept, what they cover is said, and nothing ends in a dead end."""
    graphs = recorded(tmp_path, pair, write_prompts(tmp_path / "prompts.jsonl", 12), max_new_tokens=80, chat=True)
    said = capsys.readouterr().out
    assert "cost: 2 prompts, at most 512 nodes, about " in said
    assert "256 nodes a prompt (--node-budget)" in said
    assert graphs.meta.coverage["closed"] == 0.0
    assert 0 < graphs.meta.coverage["random_steps"] < 1
    assert f"{graphs.meta.coverage['random_steps']:.4f}" in said
    assert sum(int(np.isnan(graph.score).sum()) for graph in graphs) == 2 * 256
    assert SyneraReplayEnv(graphs).reset(seed=0)[0].size, "an episode can begin"


def test_what_does_not_fit_is_refused_before_anything_is_recorded(
    pair: OwnPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_cost, "free_memory", lambda device: 400_000)
    with pytest.raises(SettingError, match="are free; lower --max-new-tokens or --node-budget"):
        recorded(tmp_path, pair, write_prompts(tmp_path / "prompts.jsonl", 8))
    assert not (tmp_path / "graphs").exists()


def test_what_is_recorded_another_day_is_read_as_before(pair: OwnPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The template writes today's date, and graphs of two dates would be of two worlds."""
    prompts = write_prompts(tmp_path / "prompts.jsonl", 8)
    before = recorded(tmp_path, pair, prompts, splits=("train",), chat=True)
    plain = chat.chat_frame

    def tomorrow(*arguments: Any, **named: Any) -> Frame:
        frame = plain(*arguments, **named)
        return replace(frame, before=frame.before.replace("Today Date: ", "Today Date: not "))

    monkeypatch.setattr(chat, "chat_frame", tomorrow)
    lens = tmp_path / "graphs" / "train.safetensors"
    after = recorded(tmp_path, pair, prompts, lens=lens, chat=True)
    assert after.meta.frame == before.meta.frame
    assert "not" not in after.meta.frame["before"]  # type: ignore[operator]
    for wrong in ({}, {"chat": True, "system_message": "Be brief."}, {"bos": False}):
        with pytest.raises(SettingError, match=r"train\.safetensors prompts were read between .* record them alike"):
            recorded(tmp_path, pair, prompts, lens=lens, **wrong)


def test_a_system_message_is_part_of_what_graphs_state(pair: OwnPair, tmp_path: Path) -> None:
    graphs = recorded(
        tmp_path, pair, write_prompts(tmp_path / "prompts.jsonl", 8), chat=True, system_message="Answer in\none word."
    )
    frame = Frame.of(graphs.meta.frame)
    assert "Answer in\none word." in frame.before
    assert frame.ends == (4,)
    assert 4 in graphs.meta.eos_ids


def test_ray_records_the_same_files(pair: OwnPair, tmp_path: Path, ray_here: None) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 48)
    files = []
    for name, ray in (("plain", None), ("ray", "local")):
        recorded(tmp_path / name, pair, prompts, splits=("train", "test"), ray=ray, node_budget=12)
        files.append({path.name: path.read_bytes() for path in (tmp_path / name / "graphs").iterdir()})
    assert sorted(files[0]) == ["test.safetensors", "train.safetensors"]
    assert files[0] == files[1]
