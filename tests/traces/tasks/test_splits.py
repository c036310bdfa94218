"""Prompts by split: bundled ones keep to their split, a file's lines are divided once and for all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SettingError
from traces.errors import TraceError
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


def test_a_file_that_is_not_there_is_an_error_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no prompts at .*none\.txt; write a text file there, one prompt a line"):
        own_prompts(tmp_path / "none.txt")


@pytest.mark.parametrize("content", [b"one\ntwo\nthr\xffee", b"one\ntwo\n\xe4\xb8", "one\ntwo\nthree".encode("utf-16")])
def test_a_file_that_is_not_utf_8_is_named_with_its_line(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    line = 1 if content.startswith(b"\xff\xfe") else 3
    with pytest.raises(TraceError, match=rf"prompts\.txt is not text in UTF-8: line {line} has the byte 0x(ff|e4)"):
        own_prompts(file)


def test_a_folder_or_a_device_is_not_read(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(TraceError, match="cannot be read: it is not a regular file"):
            own_prompts(path)


def test_a_line_that_no_context_takes_is_named(file: Path) -> None:
    file.write_text("one\ntwo\n" + "x" * 1_000_001 + "\n")
    with pytest.raises(SettingError, match=r"prompts\.txt: line 3 has 1000001 characters, and a prompt at most 1000000"):
        own_prompts(file)


def test_only_the_end_of_a_line_ends_a_prompt(file: Path) -> None:
    """Not the other characters that Python splits lines at; and a mark of the byte order is none of the first prompt."""
    file.write_bytes("\ufeffone\u2028more\r\ntwo\x0cmore\r\nthree\r\n".encode())
    found = sorted(p.text for part in own_prompts(file).values() for p in part)
    assert found == ["one\u2028more", "three", "two\x0cmore"]


def test_more_prompts_than_there_are_end_in_an_error() -> None:
    """And not after minutes of looking for them."""
    with pytest.raises(SettingError, match="fewer than 100000 distinct 'fact' prompts in split 'test'"):
        bundled_prompts("test", 100_000)


@pytest.mark.parametrize(
    ("split", "count", "seed", "message"),
    [
        ("valid", 1, 0, "split='valid' is not one of train, validation, test"),
        ("train", 0, 0, "count=0 must be a number at least 1"),
        ("train", -3, 0, "count=-3 must be"),
        ("train", 1, -1, "seed=-1 must be"),
    ],
)
def test_prompts_that_cannot_be_drawn_are_a_users_mistake(split: str, count: int, seed: int, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        bundled_prompts(split, count, seed)


def test_splits_need_no_models() -> None:
    code = "import sys\nimport traces.tasks.splits\nprint(*[n for n in ('torch', 'tokenizers', 'runtime.model') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
