"""Prompts by split: bundled ones keep to their split, a file's lines are divided once and for all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SettingError
from traces.errors import TraceError
from traces.tasks import answers, tinyworld
from traces.tasks.splits import Prompt, bundled_prompts, own_prompts, read_prompts

SPLITS = {"train", "validation", "test"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prompts") / "prompts.txt"


def test_bundled_prompts_are_so_many_of_each_kind_of_their_split() -> None:
    found = bundled_prompts("validation", 3, seed=5)
    assert [p.kind for p in found] == [kind for kind in tinyworld.KINDS for _ in range(3)]
    assert all(answers.kind_of(p.text) == p.kind for p in found)
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


# ---------------------------------------------------------------- JSON lines


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    return tmp_path / "prompts.jsonl"


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)


@given(
    rows=st.lists(
        st.tuples(TEXTS, st.none() | st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from(["custom", "x"])),
        unique_by=lambda row: row[0],
    )
)
def test_json_lines_give_back_what_was_written(file: Path, rows: list[tuple[str, str | None, str]]) -> None:
    """Of many lines, in any script; nothing of a prompt is cut off."""
    path = file.with_suffix(".jsonl")
    written = [json.dumps({"prompt": text, "reference": reference, "kind": kind}) for text, reference, kind in rows]
    path.write_text("\n\n".join(written), encoding="utf-8")
    assert read_prompts(path) == [Prompt(text, kind, reference) for text, reference, kind in rows]


def test_reference_and_kind_may_be_left_out(lines: Path) -> None:
    lines.write_text('{"prompt": "one\\ntwo "}\r\n{"prompt": "b", "reference": "c"}\n')
    assert read_prompts(lines) == [Prompt("one\ntwo ", "custom"), Prompt("b", "custom", "c")]


def test_json_lines_are_divided_as_lines_are(lines: Path, file: Path) -> None:
    texts = [f"prompt {i}" for i in range(40)]
    file.write_text("\n".join(texts))
    lines.write_text("\n".join(json.dumps({"prompt": text}) for text in [*texts, texts[3]]))
    assert own_prompts(lines) == own_prompts(file)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a"', "Invalid JSON"),
        ('"a"', "Input should be an object"),
        ("[1]", "Input should be an object"),
        ("{}", "prompt: Field required"),
        ('{"prompt": 3}', "prompt: Input should be a valid string, not 3"),
        ('{"prompt": ""}', "prompt: String should have at least 1 character"),
        ('{"prompt": null}', "prompt: Input should be a valid string"),
        ('{"prompt": "a", "reference": 3}', "reference: Input should be a valid string"),
        ('{"prompt": "a", "kind": ""}', "kind: String should have"),
        ('{"prompt": "a", "answer": "b"}', "answer: Unexpected keyword argument"),
        ('{"prompt": "\\ud800"}', "Invalid JSON"),
        ('{"prompt": "a"} {"prompt": "b"}', "Invalid JSON"),
    ],
)
def test_a_line_that_is_no_prompt_is_named_by_its_number(lines: Path, line: str, message: str) -> None:
    lines.write_text(f'{{"prompt": "one"}}\n\n{line}\n{{"prompt": "two"}}')
    with pytest.raises(TraceError, match=rf"prompts\.jsonl: line 3 is not a Prompt: .*{message}.*; write") as error:
        read_prompts(lines)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"prompt": "a"}\n{"prompt": " \\n "}', "the prompt of line 2 is blank"),
        ('{"prompt": "a", "reference": "1"}\n{"prompt": "a", "reference": "2"}', "lines 1 and 2 give the prompt 'a' different"),
        ('{"prompt": "a"}\n{"prompt": "b"}\n{"prompt": "a", "kind": "x"}', "lines 1 and 3 give the prompt 'a' different"),
        (json.dumps({"prompt": "x" * 1_000_001}), "line 1 has 1000001 characters"),
    ],
)
def test_prompts_that_cannot_be_recorded_are_named_by_their_lines(lines: Path, content: str, message: str) -> None:
    lines.write_text(content)
    with pytest.raises(SettingError, match=message):
        read_prompts(lines)


@pytest.mark.parametrize("content", ['{"prompt": "a"}', ' { "prompt" : "a"}', '[{"prompt": "a"}]', '[\n {"prompt": "a"}]'])
def test_json_under_another_name_is_not_taken_for_prompts(file: Path, content: str) -> None:
    for path in (file, file.with_suffix(".json")):
        path.write_text(content)
        with pytest.raises(SettingError, match=r"holds JSON; name it with the ending \.jsonl"):
            read_prompts(path)
