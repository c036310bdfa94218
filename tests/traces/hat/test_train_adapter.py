"""The adapter's recipe: what it learns, exact resumption, and what is refused. A few steps on a very small model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from runtime.errors import SettingError
from runtime.hat.adapter import FILE, Adapter
from runtime.model.decoder import Decoder
from runtime.model.loading import fingerprint, load_decoder
from tests.support.adapters import random_module
from tests.support.checkpoints import random_ids, save_checkpoint
from traces.errors import TraceError
from traces.hat import training
from traces.hat.adapter_texts import OwnTexts, Text, answered
from traces.hat.train_adapter import CHECKPOINT, AdapterModule, AdapterRecipe, features, losses, save_adapter, train

RECIPE = AdapterRecipe(first=1, steps=6, rows=4, learning_rate=5e-3, warmup_steps=2, checkpoint_every=2)
NOTES: training.Notes = {"texts": "random"}


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


def run(decoder: Decoder, texts: OwnTexts, out: Path, recipe: AdapterRecipe = RECIPE, **more: Any) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(train(decoder, texts, recipe, "0" * 16, out, NOTES, **more))


# ---------------------------------------------------------------- what is learned


def test_features_are_those_of_each_text_by_itself(decoder: Decoder) -> None:
    """Texts of a step do not see each other."""
    pair = [Text(tuple(random_ids(n, n).tolist()), (False,) * 3 + (True,) * (n - 4) + (False,)) for n in (9, 14)]
    together, alone = features(decoder, pair, 1), [features(decoder, [text], 1) for text in pair]
    for name in ("states", "wanted", "probabilities"):
        assert (getattr(together, name) - torch.cat([getattr(one, name) for one in alone])).abs().max() <= 1e-5
    assert together.lengths == [9, 14]
    assert len(together.wanted) == sum(map(sum, (text.learned for text in pair)))
    whole = decoder.run(decoder.embed(torch.tensor(pair[0].ids)), torch.arange(9), decoder.new_cache())
    assert (together.wanted[:5] - whole[3:8]).abs().max() <= 1e-5
    module = random_module(decoder, "0" * 16, 1)
    with torch.no_grad():
        got = module(together.states, together.turns, together.lengths)
        apart = torch.cat([module(one.states, one.turns, one.lengths) for one in alone])
    assert (got - apart).abs().max() <= 1e-5


def test_the_loss_is_the_papers_in_units_of_the_models_states(decoder: Decoder, texts: OwnTexts) -> None:
    module = random_module(decoder, "0" * 16, 1)
    found = features(decoder, texts.draw(np.random.default_rng(0), 3), 1)
    met = losses(module, decoder, found, 0.1)
    out = module(found.states, found.turns, found.lengths)[found.learned].detach()
    unit = found.wanted.square().mean().sqrt()
    assert met.states.item() == pytest.approx(F.smooth_l1_loss(out / unit, found.wanted / unit).item())
    said = decoder.logits(out).log_softmax(-1)
    assert met.tokens.item() == pytest.approx(-(found.probabilities * said).sum(-1).mean().item(), rel=1e-4)
    assert met.whole.item() == pytest.approx((met.states + 0.1 * met.tokens).item())


def test_it_begins_as_the_exit_after_the_first_layers(decoder: Decoder, texts: OwnTexts) -> None:
    module = AdapterModule(random_module(decoder, "0" * 16, 1).stated)
    found = features(decoder, texts.draw(np.random.default_rng(0), 2), 1)
    assert torch.equal(module(found.states, found.turns, found.lengths), found.states)


def test_a_short_training_lowers_the_loss_and_leaves_the_model_alone(
    decoder: Decoder, folder: Path, texts: OwnTexts, tmp_path: Path
) -> None:
    before = fingerprint(folder), [t.clone() for t in decoder.ends if isinstance(t, torch.Tensor)]
    model = fingerprint(folder)
    train(decoder, texts, replace(RECIPE, steps=60, rows=8), model, tmp_path, NOTES)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 60]
    found = features(decoder, texts.draw(np.random.default_rng(99), 8), 1)
    untrained = losses(AdapterModule(random_module(decoder, model, 1).stated), decoder, found, 0.1)
    assert lines[-1]["loss_whole"] < 0.8 * untrained.whole.item()
    assert lines[-1]["loss_tokens"] < untrained.tokens.item()
    assert list((tmp_path / "tb").glob("events.out.tfevents.*"))
    adapter = Adapter.load(tmp_path, decoder, model)
    assert adapter.stated.training["texts"] == "random"
    assert adapter.stated.training["steps"] == 60
    after = [t for t in decoder.ends if isinstance(t, torch.Tensor)]
    assert all(torch.equal(a, b) for a, b in zip(before[1], after, strict=True))


def test_the_file_computes_what_the_module_does(decoder: Decoder, tmp_path: Path) -> None:
    module = random_module(decoder, "0" * 16, 1)
    save_adapter(module, module.stated, tmp_path / FILE)
    ids = random_ids(20)
    found = features(decoder, [Text(tuple(ids.tolist()), (True,) * 19 + (False,))], 1)
    adapter = Adapter.load(tmp_path, decoder)
    with torch.no_grad():
        wanted = module(found.states, found.turns, found.lengths)
    got = adapter.run(found.states, decoder.turns(torch.arange(20)), adapter.new_cache())
    assert (got - wanted).abs().max() <= 1e-5


def test_the_learning_rate_warms_up_and_falls_to_nothing() -> None:
    recipe = AdapterRecipe(1, steps=100, learning_rate=1.0, warmup_steps=10)
    rates = [recipe.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == 1.0 == max(rates)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 0.001


# ---------------------------------------------------------------- the run


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
    assert not (tmp_path / "parts" / FILE).exists()
    resumed = run(decoder, texts, tmp_path / "parts", resume=True)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (tmp_path / "whole" / FILE).read_bytes() == (tmp_path / "parts" / FILE).read_bytes()


def test_another_seed_gives_other_weights(decoder: Decoder, texts: OwnTexts, tmp_path: Path) -> None:
    one, other = (run(decoder, texts, tmp_path / str(seed), replace(RECIPE, seed=seed)) for seed in (0, 1))
    assert not torch.equal(one["o_proj.weight"], other["o_proj.weight"])


def test_a_run_that_is_there_is_not_written_over(decoder: Decoder, texts: OwnTexts, tmp_path: Path) -> None:
    run(decoder, texts, tmp_path)
    with pytest.raises(TraceError, match=r"adapter\.ckpt is of an earlier run; go on with it with --resume, delete it"):
        run(decoder, texts, tmp_path)
    run(decoder, texts, tmp_path, resume=True)  # nothing is left to do


def test_what_is_not_there_cannot_be_resumed(decoder: Decoder, texts: OwnTexts, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"there is no checkpoint at .*adapter\.ckpt; leave out --resume"):
        run(decoder, texts, tmp_path, resume=True)


@pytest.mark.parametrize("change", [{"seed": 1}, {"first": 2}, {"steps": 7}, {"learning_rate": 1e-3}])
def test_a_checkpoint_of_another_run_is_named(
    decoder: Decoder, texts: OwnTexts, tmp_path: Path, change: dict[str, Any]
) -> None:
    run(decoder, texts, tmp_path, replace(RECIPE, steps=1) if "steps" in change else RECIPE)
    name = next(iter(change))
    with pytest.raises(TraceError, match=rf"adapter\.ckpt is of another run: {name}=.*; give that, delete it"):
        run(decoder, texts, tmp_path, replace(RECIPE, **change), resume=True)


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[:500], lambda whole: b"no" * 99])
def test_a_damaged_checkpoint_is_named_with_the_way_out(
    decoder: Decoder, texts: OwnTexts, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    run(decoder, texts, tmp_path, replace(RECIPE, steps=1))
    path = tmp_path / CHECKPOINT
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TraceError, match=r"adapter\.ckpt cannot be taken up \(.*\); delete it to begin anew"):
        run(decoder, texts, tmp_path, replace(RECIPE, steps=1), resume=True)


@pytest.mark.parametrize(
    "change", [{"first": -1}, {"steps": 0}, {"rows": 0}, {"learning_rate": 0.0}, {"learning_rate": math.nan}, {"seed": -1}]
)
def test_a_recipe_that_cannot_be_trained_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=next(iter(change))):
        replace(RECIPE, **change)
