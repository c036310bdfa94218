"""Medusa heads as the device runs them: the same as those that are trained; and what their file may be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from runtime.errors import CheckpointError
from runtime.hat.medusa import FILE, FORMAT, MedusaHeads, MedusaStated
from runtime.model.decoder import Decoder
from runtime.model.loading import fingerprint, load_decoder, load_ends
from runtime.model.placement import Placement
from runtime.model.split import Split
from tests.support.adapters import random_heads
from tests.support.checkpoints import save_checkpoint
from traces.hat.train_medusa import MedusaModule, save_heads

HEADS, ROWS = 3, 7


class Given(NamedTuple):
    """A model, heads of it as they are trained, and their file."""

    folder: Path
    decoder: Decoder
    module: MedusaModule
    file: Path


@pytest.fixture(scope="module", params=["Llama", "Qwen3"])
def given_(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp(request.param)
    save_checkpoint(folder, request.param, head_dim=16)
    decoder = load_decoder(folder)
    module = random_heads(decoder, fingerprint(folder), 1, HEADS)
    file = folder / "heads" / FILE
    file.parent.mkdir()
    save_heads(module, module.stated, file)
    return Given(folder, decoder, module, file)


def states(decoder: Decoder) -> torch.Tensor:
    return torch.randn(ROWS, decoder.config.hidden, generator=torch.Generator().manual_seed(1))


def test_they_say_what_was_trained_through_the_models_own_norm_and_head(given_: Given) -> None:
    decoder = given_.decoder
    got = MedusaHeads.load(given_.file.parent, decoder).logits(decoder, states(decoder))
    assert got.shape == (ROWS, HEADS, decoder.config.vocab)
    with torch.no_grad():
        outs = given_.module(decoder.ends.norm(states(decoder)))
    for head, out in enumerate(outs):
        wanted = F.linear(out, decoder.ends.head)[:, : decoder.config.vocab]
        assert (got[:, head] - wanted).abs().max() <= 1e-4
    assert (got[:, 0] - got[:, 1]).abs().max() > 0.01  # each says something else


def test_heads_of_nothing_say_what_the_model_says_next(given_: Given) -> None:
    decoder = given_.decoder
    stated = MedusaStated(FORMAT, "0" * 16, 1, decoder.config.hidden, 2, {})
    heads = MedusaHeads(stated, {name: torch.zeros(shape) for name, shape in stated.shapes.items()})
    got, own = heads.logits(decoder, states(decoder)), decoder.logits(states(decoder))
    assert (got - own[:, None]).abs().max() <= 1e-4


def test_they_say_what_they_are_of_and_what_they_take(given_: Given, tmp_path: Path) -> None:
    heads, hidden = MedusaHeads.load(given_.file, given_.decoder, fingerprint(given_.folder)), given_.decoder.config.hidden
    assert (heads.heads, heads.first, heads.cached_bytes) == (HEADS, 1, 0)
    assert heads.weight_bytes == 4 * HEADS * (hidden * hidden + hidden)
    assert heads.stated == given_.module.stated
    other = random_heads(given_.decoder, fingerprint(given_.folder), 1, HEADS, seed=5)
    save_heads(other, other.stated, tmp_path / FILE)
    changed = MedusaHeads.load(tmp_path, given_.decoder)
    assert len(heads.fingerprint) == 16
    assert heads.fingerprint == MedusaHeads.load(given_.file.parent, given_.decoder).fingerprint != changed.fingerprint


def test_any_cut_of_the_model_takes_them_and_so_does_another_type(given_: Given) -> None:
    whole = MedusaHeads.load(given_.file, given_.decoder).logits(given_.decoder, states(given_.decoder))
    for split in (Split(1), Split(1, 1), Split(0)):
        ends = load_ends(given_.folder, split)
        assert torch.equal(MedusaHeads.load(given_.file, ends).logits(ends, states(ends)), whole)
    half = load_decoder(given_.folder, Placement("cpu", "bfloat16"))
    got = MedusaHeads.load(given_.file, half).logits(half, states(half).to(half.dtype))
    assert got.dtype == half.dtype
    assert (got.float() - whole).abs().max() <= 0.1 * whole.abs().max()


def test_heads_of_another_model_are_refused(given_: Given, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"was trained on the model .*, not on 0000000000000000; train some with"):
        MedusaHeads.load(given_.file, given_.decoder, "0" * 16)
    save_checkpoint(tmp_path, "Llama", hidden_size=64, head_dim=16)
    with pytest.raises(CheckpointError, match="is of another model: its hidden is 32, the model's 64"):
        MedusaHeads.load(given_.file, load_decoder(tmp_path))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "is of format 2, and format 1 is read here"),
        ({"model": "nobody"}, "is not a set of Medusa heads: .*model"),
        ({"heads": 9}, "is not a set of Medusa heads: .*heads"),
        ({"heads": 4}, "'heads.3.weight' has shape None"),
        ({"surplus": 1}, "is not a set of Medusa heads: .*surplus"),
    ],
)
def test_a_file_that_states_something_else_is_refused(given_: Given, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    stated = asdict(given_.module.stated) | change
    save_file(load_file(given_.file), tmp_path / FILE, metadata={"medusa": json.dumps(stated)})
    with pytest.raises(CheckpointError, match=says):
        MedusaHeads.load(tmp_path, given_.decoder)


@pytest.mark.parametrize("damage", [lambda w: b"", lambda w: w[:-7], lambda w: b"\x80\x04" + w])
def test_a_damaged_file_is_named_with_the_way_out(given_: Given, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / FILE).write_bytes(damage(given_.file.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"{FILE} cannot be read: .*synera train-adapter --drafter medusa"):
        MedusaHeads.load(tmp_path, given_.decoder)
