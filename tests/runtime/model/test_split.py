"""A model in two parts: each loads only what it runs, and together they compute what the whole one does."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from runtime.errors import ContextOverflowError, SettingError
from runtime.model.decoder import Decoder
from runtime.model.kv import SequenceKV
from runtime.model.loading import load_decoder, load_ends, load_middle
from runtime.model.split import Split
from tests.support.checkpoints import random_ids, save_checkpoint

KINDS: dict[str, dict[str, Any]] = {
    "Llama": {"tie_word_embeddings": True},
    "Mistral": {"sliding_window": 7},
    "Qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
    "Qwen3": {"head_dim": 16},
}
LAYERS, LENGTH, TOLERANCE = 5, 24, 1e-4


class Parts(NamedTuple):
    """A checkpoint, whole and in two."""

    whole: Decoder
    ends: Decoder
    middle: Decoder
    split: Split


class Halves:
    """Caches of both parts, and the forward that goes through all of them."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.device, self.cloud = parts.ends.new_cache(), parts.middle.new_cache()

    def forward(self, ids: Tensor, first: int) -> Tensor:
        _, ends, middle, split = self.parts
        places = torch.arange(first, first + len(ids))
        cut = LAYERS - split.last
        states = ends.run(ends.embed(ids), places, self.device, 0, split.first)
        states = middle.run(states, places, self.cloud, split.first, cut)
        return ends.logits(ends.run(states, places, self.device, cut))

    def truncate(self, length: int) -> None:
        self.device.truncate(length)
        self.cloud.truncate(length)


@pytest.fixture(scope="module", params=[(kind, split) for kind in KINDS for split in ("1", "2:1", "0:4")], ids=str)
def parts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Parts:
    kind, split = request.param[0], Split.parse(request.param[1])
    folder = tmp_path_factory.mktemp(kind)
    save_checkpoint(folder, kind, num_hidden_layers=LAYERS, **KINDS[kind])
    return Parts(load_decoder(folder), load_ends(folder, split), load_middle(folder, split), split)


def whole_logits(whole: Decoder, ids: Tensor) -> Tensor:
    kv = whole.new_cache()
    return whole.logits(whole.run(whole.embed(ids), torch.arange(len(ids)), kv))


def near(got: Tensor, wanted: Tensor) -> None:
    assert (got - wanted).abs().max() <= TOLERANCE


def test_the_two_parts_compute_what_the_whole_model_does(parts: Parts) -> None:
    ids = random_ids(LENGTH)
    wanted = whole_logits(parts.whole, ids)
    near(Halves(parts).forward(ids, 0), wanted)  # at once
    stepping = Halves(parts)
    near(torch.cat([stepping.forward(ids[i : i + 1], i) for i in range(LENGTH)]), wanted)
    chunked = Halves(parts)
    near(torch.cat([chunked.forward(ids[i : i + 7], i) for i in range(0, LENGTH, 7)]), wanted)


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=6), kept=st.integers(0, 23), seed=st.integers(0, 99))
def test_a_rollback_on_both_sides_leaves_nothing_of_what_was_taken_back(
    parts: Parts, sizes: list[int], kept: int, seed: int
) -> None:
    halves, other, first = Halves(parts), random_ids(LENGTH, seed + 1), 0
    for size in sizes:  # of another text, that is then taken back
        halves.forward(other[first : first + size], first) if other[first : first + size].numel() else None
        first = min(LENGTH, first + size)
    kept = min(kept, first)
    ids = torch.cat([other[:kept], random_ids(LENGTH - kept, seed)])
    halves.truncate(kept)
    near(halves.forward(ids[kept:], kept), whole_logits(parts.whole, ids)[kept:])


def test_each_part_holds_its_own_weights_and_caches_alone(parts: Parts) -> None:
    whole, ends, middle, split = parts
    assert ends.weight_bytes + middle.weight_bytes == whole.weight_bytes
    assert ends.cached_bytes + middle.cached_bytes == whole.cached_bytes
    assert middle.layers == tuple(split.middle(LAYERS))
    assert ends.layers == split.ends(LAYERS)
    assert isinstance(middle.new_cache(), SequenceKV)
    assert len(middle.new_cache().lengths) == len(middle.layers)


def test_what_a_part_does_not_have_is_refused(parts: Parts) -> None:
    middle, ends, split = parts.middle, parts.ends, parts.split
    states, places = torch.zeros(1, middle.config.hidden), torch.arange(1)
    for ask in (lambda: middle.embed(places), lambda: middle.logits(states)):
        with pytest.raises(ValueError, match="neither embedding nor head"):
            ask()
    with pytest.raises(ValueError, match="are not all there"):
        middle.run(states, places, middle.new_cache())
    with pytest.raises(ValueError, match="are not all there"):
        ends.run(states, places, ends.new_cache(), split.first, LAYERS)
    with pytest.raises(ContextOverflowError):
        ends.run(states, places + ends.config.context, ends.new_cache(), 0, 0)


def test_nothing_is_read_of_the_weights_of_the_other_part(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "Llama", num_hidden_layers=LAYERS, shard="20KB")
    split, held = Split(2), {part: load(tmp_path, Split(2)) for part, load in (("ends", load_ends), ("middle", load_middle))}
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    for file in tmp_path.glob("*.safetensors"):  # a device need not have the files of the middle
        with safe_open(file, "pt") as opened:
            names = list(opened.keys())
            layers = {int(name.split(".")[2]) for name in names if ".layers." in name}
            ends = any(".layers." not in name for name in names)
        if layers and not ends and layers <= set(split.middle(LAYERS)):
            file.unlink()
    assert load_ends(tmp_path, split).weight_bytes == held["ends"].weight_bytes


@pytest.mark.parametrize("text", ["", "a", "1:2:3", "-1", "1:", "99999"])
def test_a_split_that_cannot_be_read_says_what_is_wanted(text: str) -> None:
    with pytest.raises(SettingError, match="FIRST or FIRST:LAST"):
        Split.parse(text)


@pytest.mark.parametrize("split", [Split(5), Split(3, 2), Split(0, 9)])
def test_a_split_that_leaves_the_cloud_nothing_is_refused(split: Split) -> None:
    with pytest.raises(SettingError, match="leaves the cloud none of the model's 5 layers"):
        split.middle(LAYERS)
