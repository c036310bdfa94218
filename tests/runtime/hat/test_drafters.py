"""What drafts is what the folder holds; a folder that holds nothing, or too much, is refused with one message."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtime.clock import RealClock
from runtime.errors import CheckpointError
from runtime.hat.adapter import FILE as ADAPTER_FILE
from runtime.hat.adapter import Adapter
from runtime.hat.drafters import ends_over, load_drafter, stated_first
from runtime.hat.ends import ModelEnds
from runtime.hat.medusa import FILE as HEADS_FILE
from runtime.hat.medusa import MedusaHeads
from runtime.hat.medusa_ends import MedusaEnds
from runtime.model.decoder import Decoder
from runtime.model.loading import load_ends
from runtime.model.split import Split
from tests.runtime.hat.test_ends import NoCosts
from tests.support.hat import save_adapter, save_heads


@pytest.fixture(scope="module")
def ends(tiny_deep: Path) -> Decoder:
    return load_ends(tiny_deep, Split(1))


def test_a_folder_or_its_file_says_what_drafts(tiny_deep: Path, ends: Decoder, tmp_path: Path) -> None:
    of = {
        Adapter: (save_adapter(tmp_path / "adapter", tiny_deep, 1), ADAPTER_FILE, ModelEnds),
        MedusaHeads: (save_heads(tmp_path / "heads", tiny_deep, 2), HEADS_FILE, MedusaEnds),
    }
    for kind, (folder, file, drafts) in of.items():
        for path in (folder, folder / file, str(folder)):
            drafter = load_drafter(path, ends)
            assert type(drafter) is kind
            assert stated_first(path) == drafter.first == (1 if kind is Adapter else 2)
        session = ends_over(ends, Split(1), drafter, RealClock(), NoCosts(), frozenset())
        assert type(session) is drafts


def test_a_folder_with_both_is_refused(tiny_deep: Path, ends: Decoder, tmp_path: Path) -> None:
    save_adapter(tmp_path, tiny_deep, 1)
    save_heads(tmp_path, tiny_deep, 1)
    for use in (lambda path: load_drafter(path, ends), stated_first):
        with pytest.raises(
            CheckpointError, match=rf"holds both {ADAPTER_FILE} and {HEADS_FILE}, and one alone drafts; name the"
        ):
            use(tmp_path)
    assert isinstance(load_drafter(tmp_path / HEADS_FILE, ends), MedusaHeads)


@pytest.mark.parametrize("path", ["missing", ".", "n" * 300, "a\0b"])
def test_what_leads_to_nothing_is_named(ends: Decoder, tmp_path: Path, path: str) -> None:
    for use in (lambda path: load_drafter(path, ends), stated_first):
        with pytest.raises(CheckpointError, match=r"no adapter at .*; train one with: synera train-adapter"):
            use(f"{tmp_path}/{path}")


@pytest.mark.parametrize("name", [ADAPTER_FILE, HEADS_FILE, "other.bin"])
def test_a_damaged_file_is_named(ends: Decoder, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"no" * 50)
    with pytest.raises(CheckpointError, match=r"cannot be read: .*; train"):
        load_drafter(tmp_path / name, ends)
