"""The pair's recipe: packing, schedule, exact resumption, and what is exported. A few steps of a very small model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.errors import CheckpointError
from runtime.model.loading import load_decoder
from runtime.model.tokenizer import load_tokenizer, tokenizer_hash
from tests.support.placements import NO_CUDA
from traces.errors import TraceError
from traces.pair import card as pair_card
from traces.pair import exits
from traces.pair import train as pair
from traces.tasks import answers, scorers, tinyworld, vocabulary

TINY = pair.ModelRecipe(
    hidden=16,
    layers=3,
    heads=2,
    mlp=24,
    steps=4,
    form_weights=pair.SLM.form_weights,
    restart_steps=2,
    exit_layers=(1, 2),
    offered_exits=(1, 3),
    rows=2,
    row_tokens=160,
)


def test_rows_hold_whole_documents_and_only_answers_are_learned() -> None:
    tokenizer = vocabulary.build_tokenizer()
    batch = pair._pack(tokenizer, TINY, step=0)
    ids, labels = batch.ids.numpy(), batch.labels.numpy()
    eos, bos = tokenizer.token_to_id("<eos>"), tokenizer.token_to_id("<bos>")
    for row, targets in zip(ids, labels, strict=True):
        used = np.flatnonzero(row)
        assert row[0] == bos
        assert row[used[-1]] == eos
        for document in tokenizer.decode(row[: used[-1] + 1].tolist(), skip_special_tokens=False).split("<bos> ")[1:]:
            prompt, answer = document.split(" <ans> ")
            assert scorers.score(prompt, answer.replace(" <eos>", "").replace("<eos>", "").strip()) == 1.0
            assert tinyworld.split_of(prompt) == "train"
        learned = np.flatnonzero(targets >= 0)
        assert (targets[learned] == row[learned + 1]).all()


@pytest.mark.parametrize("freedom", [0.0, 1.0])
def test_the_wording_that_is_learned_is_as_free_as_the_recipe_says(freedom: float) -> None:
    tokenizer = vocabulary.build_tokenizer()
    recipe = replace(TINY, freedom=freedom, rows=8, form_weights={"description": 1.0})
    canonical = []
    for row in pair._pack(tokenizer, recipe, step=0).ids:
        for document in tokenizer.decode(row[row > 0].tolist(), skip_special_tokens=False).split("<bos> ")[1:]:
            prompt, answer = document.split(" <ans> ")
            canonical.append(answer.replace("<eos>", "").strip() == answers.solve(prompt))
    assert len(canonical) > 5
    assert all(canonical) if freedom == 0.0 else not any(canonical)


def test_only_the_kinds_of_the_recipe_are_drawn() -> None:
    tokenizer = vocabulary.build_tokenizer()
    batch = pair._pack(tokenizer, replace(TINY, form_weights={"bill": 1.0}), step=0)
    begins = [tokenizer.decode([token]) for row in batch.ids for token in row[1:][row[:-1] == tokenizer.token_to_id("<bos>")]]
    assert set(begins) == {"Bill"}


def test_a_step_is_seeded_by_its_number() -> None:
    tokenizer = vocabulary.build_tokenizer()
    one, same, other = (pair._pack(tokenizer, TINY, step).ids for step in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_schedule_warms_up_falls_and_restarts() -> None:
    recipe = replace(TINY, steps=400, restart_steps=100)
    scale = [pair._lr_scale(step, recipe) for step in range(recipe.total_steps)]
    assert scale[0] < 0.02
    assert scale[60:200] == [1.0] * 140
    assert scale[399] == pytest.approx(0.02, abs=0.01)
    assert scale[400] == 0.5
    assert scale[499] == pytest.approx(0.02, abs=0.01)
    assert scale[400:] == sorted(scale[400:], reverse=True)


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    whole = pair.train("slm", TINY, tmp_path / "whole")
    pair.train("slm", replace(TINY, restart_steps=0), tmp_path / "parts")  # stops after four of six steps
    resumed = pair.train("slm", TINY, tmp_path / "parts")
    a, b = (load_file_as_float(folder) for folder in (whole, resumed))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("device", ["auto", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_training_runs_on_the_device_that_was_asked_for(device: str, tmp_path: Path) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip(NO_CUDA)
    folder = pair.train("slm", replace(TINY, steps=2, restart_steps=0), tmp_path, device)
    assert load_decoder(folder).config.layers == TINY.layers


def test_a_device_that_is_not_there_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device='tpu' is not one of auto, cpu, cuda, cuda:N"):
        pair.train("slm", TINY, tmp_path / "out", "tpu")
    assert not (tmp_path / "out").exists()


def load_file_as_float(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file as load_torch

    return load_torch(folder / "model.safetensors")


def test_the_export_loads_in_the_runtime_and_in_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = pair.train("slm", replace(TINY, steps=2, restart_steps=0), tmp_path)
    decoder = load_decoder(folder)
    assert decoder.config.exit_layers == (1, 3)
    assert decoder.config.eos_ids == (2,)
    prompt = tinyworld.tasks("fact", "test", 1)[0].prompt
    ids = load_tokenizer(folder).encode(prompt).ids
    assert AutoTokenizer.from_pretrained(folder)(prompt)["input_ids"] == ids
    assert AutoModelForCausalLM.from_pretrained(folder).config.num_hidden_layers == 3
    assert len(tokenizer_hash(folder)) == 16
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["wording_freedom"], config["trained_steps"]) == (1.0, 2)


def test_a_finished_training_exports_what_its_checkpoint_holds(tmp_path: Path) -> None:
    folder = pair.train("slm", TINY, tmp_path)
    before = load_file_as_float(folder)
    shutil.rmtree(folder)
    after = load_file_as_float(pair.train("slm", replace(TINY, steps=1, restart_steps=0), tmp_path))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert json.loads((folder / "config.json").read_text())["trained_steps"] == 6


def test_a_checkpoint_of_another_freedom_is_not_taken_up(tmp_path: Path) -> None:
    pair.train("slm", replace(TINY, steps=1, restart_steps=0, freedom=0.5), tmp_path)
    with pytest.raises(TraceError, match=r"slm\.ckpt was trained with freedom=0\.5, not 1; give that, delete it"):
        pair.train("slm", TINY, tmp_path)


@pytest.fixture
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of models that hardly know how to end one."""
    monkeypatch.setattr(exits, "MAX_NEW_TOKENS", 8)


@pytest.mark.usefixtures("short_answers")
def test_measuring_covers_every_exit_and_form(tmp_path: Path) -> None:
    folder = pair.train("slm", replace(TINY, steps=2, restart_steps=0), tmp_path)
    shallow, deep = pair_card.measure(folder, prompts_per_kind=2, forms=tinyworld.FORMS)
    assert (shallow.exit_layer, deep.exit_layer) == (1, 3)
    assert shallow.relative_cost < deep.relative_cost == 1.0
    assert set(deep.scores) == set(tinyworld.FORMS)
    assert 0.0 <= deep.mean_score <= 1.0
    assert set(deep.token_accuracy) == set(scorers.PARTS)
    assert all(0.0 <= share <= 1.0 for share in deep.token_accuracy.values())


@pytest.mark.usefixtures("short_answers")
def test_a_card_states_scores_positions_and_what_it_is_given(tmp_path: Path) -> None:
    for name in ("slm", "llm"):
        pair.train(name, replace(TINY, steps=2, restart_steps=0, freedom=0.5), tmp_path)
    card = pair_card.write_card(tmp_path, 2, ["", "more of it"]).read_text()
    assert "SLM 2 steps with freedom of wording 0.5, LLM 2 steps with freedom of wording 0.5" in card
    for start in ("| llm | 1 ", "| llm | 3 ", "| slm | 1 ", "| slm | 3 ", "| wording | "):
        assert f"\n{start}" in card
    assert "\nmore of it\n" in card
    assert "](positions.png)" in card
    assert (tmp_path / "positions.png").stat().st_size < 100_000
    tables = [block.splitlines() for block in card.split("\n\n") if block.startswith("|")]
    assert len(tables) == 3
    assert all(len({row.count("|") for row in table}) == 1 for table in tables)


def test_a_card_needs_models_that_say_how_they_were_trained(tmp_path: Path) -> None:
    for name in ("slm", "llm"):
        pair.train(name, replace(TINY, steps=1, restart_steps=0), tmp_path)
    path = tmp_path / "llm" / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "wording_freedom"}))
    with pytest.raises(CheckpointError, match="llm does not say how it was trained"):
        pair_card.write_card(tmp_path, 1)


def test_a_card_needs_both_models(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="synera train-pair"):
        pair_card.write_card(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "multiple of heads"),
        ({"steps": 0}, "steps=0"),
        ({"restart_steps": -1}, "restart_steps=-1"),
        ({"freedom": 1.5}, "freedom=1.5"),
    ],
)
def test_a_recipe_that_cannot_be_trained_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


@pytest.mark.parametrize(
    "damage",
    [lambda whole: b"", lambda whole: whole[:500], lambda whole: b"PK\x03\x04" + whole[4:900], lambda whole: b"no" * 99],
)
def test_a_damaged_checkpoint_is_named_with_the_way_out(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    pair.train("slm", replace(TINY, steps=1, restart_steps=0), tmp_path)
    path = tmp_path / "slm.ckpt"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TraceError, match=r"slm\.ckpt cannot be taken up \(.*\); delete it to begin anew"):
        pair.train("slm", TINY, tmp_path)


def test_a_checkpoint_of_another_recipe_is_named(tmp_path: Path) -> None:
    pair.train("slm", replace(TINY, steps=1, restart_steps=0), tmp_path)
    with pytest.raises(TraceError, match=r"slm\.ckpt cannot be taken up \(.*size mismatch.*\); delete it"):
        pair.train("slm", replace(TINY, hidden=32), tmp_path)


def test_a_place_where_nothing_can_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for place in ("file", "file/below", "n" * 300):
        with pytest.raises(TraceError, match=r"cannot write to .*; name another path"):
            pair.train("slm", TINY, tmp_path / place)
