"""The adapter as the device runs it: the same as the one that is trained, in chunks and after a rollback; and what its file may be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from runtime.errors import CheckpointError
from runtime.hat.adapter import FILE, Adapter, Stated
from runtime.model.decoder import Decoder
from runtime.model.layer import Turns
from runtime.model.loading import fingerprint, load_decoder, load_ends
from runtime.model.placement import Placement
from runtime.model.split import Split
from tests.support.adapters import random_module, save_module
from tests.support.checkpoints import random_ids, save_checkpoint
from traces.hat.train_adapter import AdapterModule

FIRST, LENGTH, TOLERANCE = 1, 24, 1e-5


class Given(NamedTuple):
    """A model, an adapter of it as it is trained, its file, and states of a text."""

    folder: Path
    decoder: Decoder
    module: AdapterModule
    file: Path
    states: Tensor


@pytest.fixture(scope="module", params=["Llama", "Qwen3"])
def given_(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Given:
    folder = tmp_path_factory.mktemp(request.param)
    save_checkpoint(folder, request.param, head_dim=16)  # heads are wider together than the states are
    decoder = load_decoder(folder)
    module = random_module(decoder, fingerprint(folder), FIRST)
    ids = random_ids(LENGTH)
    states = decoder.run(decoder.embed(ids), torch.arange(LENGTH), decoder.new_cache(), 0, FIRST)
    return Given(folder, decoder, module, save_module(module, folder / "adapter"), states)


def wanted(given_: Given) -> Tensor:
    turns = given_.decoder.turns(torch.arange(LENGTH))
    with torch.no_grad():
        return given_.module(given_.states, turns, [LENGTH])


def turns(given_: Given, start: int, stop: int) -> Turns:
    return given_.decoder.turns(torch.arange(start, stop))


def near(got: Tensor, expected: Tensor) -> None:
    assert (got - expected).abs().max() <= TOLERANCE


def test_it_computes_what_was_trained(given_: Given) -> None:
    adapter = Adapter.load(given_.file, given_.decoder)
    before = given_.states.clone()
    got = adapter.run(given_.states, turns(given_, 0, LENGTH), adapter.new_cache())
    near(got, wanted(given_))
    assert torch.equal(given_.states, before)
    assert (got - given_.states).abs().max() > 0.1  # it does something


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_in_chunks_it_computes_the_same(given_: Given, sizes: list[int]) -> None:
    adapter = Adapter.load(given_.file, given_.decoder)
    kv, parts, at = adapter.new_cache(), [], 0
    while at < LENGTH:
        stop = min(LENGTH, at + sizes[len(parts) % len(sizes)])
        parts.append(adapter.run(given_.states[at:stop], turns(given_, at, stop), kv))
        at = stop
    near(torch.cat(parts), wanted(given_))


@given(read=st.integers(1, LENGTH), kept=st.integers(0, LENGTH))
def test_a_rollback_leaves_nothing_of_what_was_taken_back(given_: Given, read: int, kept: int) -> None:
    adapter, kept = Adapter.load(given_.file, given_.decoder), min(read, kept)
    kv = adapter.new_cache()
    other = torch.cat([given_.states[:kept], -given_.states[kept:read]])
    adapter.run(other, turns(given_, 0, read), kv)
    kv.truncate(kept)
    if kept < LENGTH:
        near(adapter.run(given_.states[kept:], turns(given_, kept, LENGTH), kv), wanted(given_)[kept:])


def test_it_says_what_it_is_of_and_what_it_takes(given_: Given) -> None:
    adapter = Adapter.load(given_.file.parent, given_.decoder, fingerprint(given_.folder))
    config = given_.decoder.config
    inner = config.heads * config.head_dim
    assert adapter.weight_bytes == 4 * (4 * inner * config.hidden + config.hidden)
    assert adapter.cached_bytes == 4 * 2 * inner
    assert adapter.first == FIRST
    assert adapter.stated.training == {"steps": 3}
    assert len(adapter.fingerprint) == 16
    kv = adapter.new_cache()
    assert (len(kv.lengths), kv.shape.kv_heads) == (1, config.heads)


def test_its_fingerprint_changes_with_its_weights(given_: Given, tmp_path: Path) -> None:
    same = Adapter.load(save_module(given_.module, tmp_path / "same"), given_.decoder)
    other = random_module(given_.decoder, fingerprint(given_.folder), FIRST, seed=5)
    changed = Adapter.load(save_module(other, tmp_path / "other"), given_.decoder)
    assert same.fingerprint == Adapter.load(given_.file, given_.decoder).fingerprint != changed.fingerprint


def test_a_device_that_has_its_part_alone_takes_it(given_: Given) -> None:
    adapter = Adapter.load(given_.file, load_ends(given_.folder, Split(FIRST, 1)))
    near(adapter.run(given_.states, turns(given_, 0, LENGTH), adapter.new_cache()), wanted(given_))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_it_runs_in_the_type_of_its_decoder(given_: Given, dtype: str) -> None:
    decoder = load_decoder(given_.folder, Placement("cpu", dtype))
    adapter = Adapter.load(given_.file, decoder)
    got = adapter.run(given_.states.to(decoder.dtype), decoder.turns(torch.arange(LENGTH)), adapter.new_cache())
    assert got.dtype == decoder.dtype
    assert (got.float() - wanted(given_)).abs().max() <= 0.05 * wanted(given_).abs().max()


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("split", [Split(2), Split(0), Split(0, 1)])
def test_an_adapter_of_another_split_is_refused(given_: Given, split: Split) -> None:
    with pytest.raises(CheckpointError, match=rf"follows layer 1 of its model, .* has the first {split.first}; .*--split"):
        Adapter.load(given_.file, load_ends(given_.folder, split))


def test_an_adapter_of_another_model_is_refused(given_: Given, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"was trained on the model .*, not on 0000000000000000; train one with"):
        Adapter.load(given_.file, given_.decoder, "0" * 16)
    save_checkpoint(tmp_path, "Llama", hidden_size=64, head_dim=16)
    with pytest.raises(CheckpointError, match="is of another model: its hidden is 32, the model's 64"):
        Adapter.load(given_.file, load_decoder(tmp_path))


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("missing", "there is no such file"),
        (".", f"it has no {FILE}"),
        ("n" * 300, "too long"),
        ("a\0b", "there is no such file"),
    ],
)
def test_an_adapter_that_is_not_there_is_named(given_: Given, tmp_path: Path, path: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=rf"no adapter at .*{says}.*; train one with: synera train-adapter"):
        Adapter.load(f"{tmp_path}/{path}", given_.decoder)


@pytest.mark.parametrize(
    "damage", [lambda w: b"", lambda w: w[:100], lambda w: w[:-7], lambda w: b"\x80\x04" + w, lambda w: b"{}"]
)
def test_a_damaged_file_is_named(given_: Given, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    (tmp_path / FILE).write_bytes(damage(given_.file.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"{FILE} cannot be read: .*; train one with"):
        Adapter.load(tmp_path, given_.decoder)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "is of format 2, and format 1 is read here"),
        ({"model": "nobody"}, "is not an adapter: .*model"),
        ({"first": -1}, "is not an adapter: .*first"),
        ({"hidden": 0}, "is not an adapter: .*hidden"),
        ({"heads": 2}, "q_proj.weight' has shape"),
        ({"surplus": 1}, "is not an adapter: .*surplus"),
    ],
)
def test_a_file_that_states_something_else_is_refused(given_: Given, tmp_path: Path, change: dict[str, Any], says: str) -> None:
    stated = asdict(given_.module.stated) | change
    save_file(load_file(given_.file), tmp_path / FILE, metadata={"adapter": json.dumps(stated)})
    with pytest.raises(CheckpointError, match=says):
        Adapter.load(tmp_path, given_.decoder)


def test_tensors_that_are_not_an_adapters_are_refused(given_: Given, tmp_path: Path) -> None:
    stated, tensors = given_.module.stated.metadata(), load_file(given_.file)
    for wrong, metadata, says in (
        (tensors, None, "is not an adapter: it does not state what it is of"),
        ({name: t for name, t in tensors.items() if name != "o_proj.weight"}, stated, "'o_proj.weight' has shape None"),
        (tensors | {"more": torch.zeros(1)}, stated, "'more' has shape"),
        (tensors | {"norm.weight": tensors["norm.weight"] / 0}, stated, "norm.weight holds values that are no finite numbers"),
        (tensors | {"norm.weight": tensors["norm.weight"].int()}, stated, "norm.weight holds values that are no finite"),
    ):
        save_file(wrong, tmp_path / FILE, metadata=metadata)
        with pytest.raises(CheckpointError, match=says):
            Adapter.load(tmp_path, given_.decoder)


def test_notes_survive_the_file(given_: Given, tmp_path: Path) -> None:
    stated = replace(given_.module.stated, training={"loss": 0.25, "texts": "world", "steps": 7})
    save_file(load_file(given_.file), tmp_path / FILE, metadata=stated.metadata())
    assert Adapter.load(tmp_path, given_.decoder).stated == stated
    assert isinstance(stated, Stated)
