"""Prompts by split: bundled ones keep to their split, a file's lines are divided once and for all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traces.tasks import tinyworld
from traces.tasks.splits import bundled_prompts, own_prompts

SPLITS = {"train", "validation", "test"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prompts") / "prompts.txt"


def test_bundled_prompts_are_so_many_of_each_kind_of_their_split() -> None:
    found = bundled_prompts("validation", 3, seed=5)
    assert [p.kind for p in found] == [kind for kind in tinyworld.KINDS for _ in range(3)]
    assert all(tinyworld.kind_of(p.text) == p.kind for p in found)
    assert {tinyworld.split_of(p.text) for p in found} == {"validation"}
    assert bundled_prompts("validation", 3, seed=5) == found != bundled_prompts("validation", 3, seed=6)


@given(count=st.integers(3, 200))
def test_every_line_is_in_one_split_and_each_split_has_its_share(file: Path, count: int) -> None:
    lines = [f"prompt {i}" for i in range(count)]
    file.write_text("\n".join(lines))
    found = own_prompts(file)
    assert set(found) == SPLITS
    assert sorted(p.text for part in found.values() for p in part) == sorted(lines)
    for held in ("validation", "test"):
        assert len(found[held]) == max(1, round(0.15 * count))
    assert len(found["train"]) >= len(found["test"])
    assert {p.kind for part in found.values() for p in part} == {"custom"}
    assert own_prompts(file) == found


def test_a_split_keeps_the_order_of_the_file_and_is_not_its_tail(file: Path) -> None:
    lines = [f"prompt {i:03}" for i in range(100)]
    file.write_text("\n".join(lines))
    found = {split: [p.text for p in part] for split, part in own_prompts(file).items()}
    assert all(part == sorted(part) for part in found.values())
    assert set(found["train"]) & set(lines[85:])


def test_blank_lines_and_repeats_count_for_nothing(file: Path) -> None:
    file.write_text("  one \n\ntwo\none\n   \nthree")
    assert sorted(p.text for part in own_prompts(file).values() for p in part) == ["one", "three", "two"]


@pytest.mark.parametrize("text", ["", "one\ntwo\n", "one\none\none\n"])
def test_fewer_than_three_prompts_are_refused(file: Path, text: str) -> None:
    file.write_text(text)
    with pytest.raises(ValueError, match=r"prompts\.txt holds \d distinct prompts; write at least 3, one a line"):
        own_prompts(file)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        own_prompts(tmp_path / "none.txt")


def test_splits_need_no_models() -> None:
    code = "import sys\nimport traces.tasks.splits\nprint(*[n for n in ('torch', 'tokenizers', 'runtime.model') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
