"""The heads' recipe: what each learns, that the model is left alone, and exact resumption. A few steps on a very small model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from runtime.errors import SettingError
from runtime.hat.medusa import FILE, MedusaHeads
from runtime.model.decoder import Decoder
from runtime.model.loading import fingerprint, load_decoder
from tests.support.adapters import random_heads
from tests.support.checkpoints import random_ids, save_checkpoint
from traces.errors import TraceError
from traces.hat import train_medusa, training
from traces.hat.adapter_texts import OwnTexts, Text, answered
from traces.hat.train_medusa import MedusaModule, MedusaRecipe, last_states, medusa_losses, save_heads

RECIPE = MedusaRecipe(first=1, steps=6, rows=4, learning_rate=5e-3, warmup_steps=2, checkpoint_every=2, heads=3)
MODEL = "0" * 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save_checkpoint(folder, "Llama")
    return folder


@pytest.fixture(scope="module")
def decoder(folder: Path) -> Decoder:
    return load_decoder(folder)


@pytest.fixture(scope="module")
def texts(decoder: Decoder) -> OwnTexts:
    return OwnTexts(list(answered(decoder, [random_ids(5 + seed, seed).tolist() for seed in range(8)], 12)))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(decoder: Decoder, texts: OwnTexts, out: Path, recipe: MedusaRecipe = RECIPE, **more: Any) -> dict[str, torch.Tensor]:
    return load_file(train_medusa.train_medusa(decoder, texts, recipe, MODEL, out, {"texts": "random"}, **more))


def test_each_head_is_to_say_a_token_of_the_same_answer_further_on(decoder: Decoder) -> None:
    ids = tuple(range(10, 20))
    # Two answers: tokens 12..14, of which 14 ends the first, and 17..19.
    learned = (False, True, True, True, False, False, True, True, True, False)
    found = last_states(decoder, [Text(ids, learned)], 3)
    # Rows 1, 2, 3 and 6, 7, 8: the model itself says the next token, the heads those behind it.
    assert found.wanted.tolist() == [[13, 14, -1, 18, 19, -1], [14, -1, -1, 19, -1, -1], [-1] * 6]
    whole = decoder.run(decoder.embed(torch.tensor(ids)), torch.arange(10), decoder.new_cache())
    rows = decoder.ends.norm(whole)[list(learned)]
    assert (found.normed - rows).abs().max() <= 1e-5


def test_a_text_whose_states_are_kept_is_met_as_if_it_were_run_again(
    decoder: Decoder, texts: OwnTexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = train_medusa._Known(decoder, 3)
    monkeypatch.setattr(train_medusa, "_KEPT_BYTES", 3000)  # of some texts alone
    for seed in range(4):
        some = texts.draw(np.random.default_rng(seed), 5)
        fresh, kept = last_states(decoder, some, 3), known.of(some)
        assert torch.equal(fresh.wanted, kept.wanted)
        assert (fresh.normed - kept.normed).abs().max() <= 1e-5


def test_the_loss_is_the_heads_cross_entropies_each_weighed_less_than_the_one_before(decoder: Decoder, texts: OwnTexts) -> None:
    module = random_heads(decoder, MODEL, 1, 3)
    found = last_states(decoder, texts.draw(np.random.default_rng(0), 3), 3)
    met = medusa_losses(module, decoder, found, 0.8)
    each = []
    for out, wanted in zip(module(found.normed), found.wanted, strict=True):
        logits = F.linear(out, decoder.ends.head)[:, : decoder.config.vocab]
        each.append(F.cross_entropy(logits[wanted >= 0], wanted[wanted >= 0]).item())
    assert met.whole.item() == pytest.approx(0.8 * each[0] + 0.8**2 * each[1] + 0.8**3 * each[2], rel=1e-4)
    assert (met.first.item(), met.last.item()) == pytest.approx((each[0], each[2]), rel=1e-4)


def test_gradients_are_the_heads_alone_and_reach_each(decoder: Decoder, texts: OwnTexts) -> None:
    module = MedusaModule(random_heads(decoder, MODEL, 1, 3).stated)
    medusa_losses(module, decoder, last_states(decoder, texts.draw(np.random.default_rng(0), 3), 3), 0.8).whole.backward()
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in module.parameters())
    ends = decoder.ends
    assert not any(t.requires_grad for t in (ends.embedding, ends.norm.weight, ends.head))


def test_a_short_training_lowers_the_loss_and_leaves_the_model_alone(
    decoder: Decoder, folder: Path, texts: OwnTexts, tmp_path: Path
) -> None:
    before = [t.clone() for t in (decoder.ends.embedding, decoder.ends.norm.weight, decoder.ends.head)]
    recipe, model = replace(RECIPE, steps=60, rows=8), fingerprint(folder)
    train_medusa.train_medusa(decoder, texts, recipe, model, tmp_path, {"texts": "random"})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 60]
    found = last_states(decoder, texts.draw(np.random.default_rng(99), 8), 3)
    untrained = medusa_losses(MedusaModule(random_heads(decoder, model, 1, 3).stated), decoder, found, 0.8)
    assert lines[-1]["loss_whole"] < 0.8 * untrained.whole.item()
    heads = MedusaHeads.load(tmp_path, decoder, model)
    assert (heads.heads, heads.first, heads.stated.training["texts"]) == (3, 1, "random")
    after = (decoder.ends.embedding, decoder.ends.norm.weight, decoder.ends.head)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_the_file_says_what_the_module_does(decoder: Decoder, tmp_path: Path) -> None:
    module = random_heads(decoder, MODEL, 1, 3)
    save_heads(module, module.stated, tmp_path / FILE)
    states = torch.randn(5, decoder.config.hidden)
    with torch.no_grad():
        outs = module(decoder.ends.norm(states))
    got = MedusaHeads.load(tmp_path, decoder).logits(decoder, states)
    for head, out in enumerate(outs):
        assert (got[:, head] - F.linear(out, decoder.ends.head)[:, : decoder.config.vocab]).abs().max() <= 1e-4


def test_a_resumed_run_ends_with_the_very_same_weights(
    decoder: Decoder, texts: OwnTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(decoder, texts, tmp_path / "whole")
    taken, real = [0], training.Run.take

    def interrupted(*given: Any) -> Any:
        taken[0] += 1
        if taken[0] == 6:  # the fifth step was taken and is lost: the checkpoint is of the fourth
            raise KeyboardInterrupt
        return real(*given)

    with monkeypatch.context() as patched:
        patched.setattr(training.Run, "take", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(decoder, texts, tmp_path / "parts")
    resumed = run(decoder, texts, tmp_path / "parts", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_run_that_is_there_is_not_written_over_nor_taken_for_another(
    decoder: Decoder, texts: OwnTexts, tmp_path: Path
) -> None:
    run(decoder, texts, tmp_path)
    with pytest.raises(TraceError, match=r"medusa\.ckpt is of an earlier run; go on with it with --resume"):
        run(decoder, texts, tmp_path)
    with pytest.raises(TraceError, match=r"medusa\.ckpt is of another run: heads=3, not 2; give that"):
        run(decoder, texts, tmp_path, replace(RECIPE, heads=2), resume=True)


@pytest.mark.parametrize("change", [{"heads": 0}, {"heads": 9}, {"decay": 1.1}, {"decay": -0.1}, {"steps": 0}])
def test_a_recipe_that_cannot_be_trained_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(change))):
        replace(RECIPE, **change)
