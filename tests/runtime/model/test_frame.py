"""Frames: what is read for a prompt, what a graph file holds of it, and what is none."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.errors import SettingError
from runtime.model.frame import Frame
from tests.support.own_pair import FAMILIES, byte_level

CHAT = Frame("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", special_tokens=False, ends=(2,))


def test_a_prompt_is_read_between_what_stands_around_it() -> None:
    family = FAMILIES["Qwen2"]
    tokenizer = byte_level(family.special, family.bos)
    ids = CHAT.encode(tokenizer, "  two\nlines ")
    assert (
        ids == tokenizer.encode("<|im_start|>user\ntwo\nlines<|im_end|>\n<|im_start|>assistant\n", add_special_tokens=False).ids
    )
    assert ids[0] == family.special.index("<|im_start|>")
    assert tokenizer.decode(ids, skip_special_tokens=False) == CHAT.text("two\nlines")


def test_without_a_frame_a_prompt_is_read_as_it_is_with_or_without_special_tokens() -> None:
    family = FAMILIES["Llama"]
    tokenizer = byte_level(family.special, family.bos)
    text = " two\nlines "
    assert Frame().text(text) == text
    assert Frame().encode(tokenizer, text) == tokenizer.encode(text).ids
    assert Frame().encode(tokenizer, text)[0] == 0
    assert Frame(special_tokens=False).encode(tokenizer, text) == tokenizer.encode(text).ids[1:]


@pytest.mark.parametrize("frame", [Frame(), CHAT, Frame(special_tokens=False), Frame(ends=(1, 2))])
def test_what_is_stated_gives_the_frame_back(frame: Frame) -> None:
    assert Frame.of(frame.stated) == frame
    assert (frame.stated == {}) == (frame == Frame())


@pytest.mark.parametrize(
    "stated",
    [
        {"before": 3},
        {"after": None},
        {"special_tokens": "yes"},
        {"ends": [-1]},
        {"ends": [1.0]},
        {"ends": "1"},
        {"ends": [True]},
        {"more": 1},
    ],
)
def test_what_is_no_frame_is_refused(stated: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        Frame.of(stated)


def test_a_frame_reads_as_a_line() -> None:
    assert str(Frame()) == "as written"
    assert "special" in str(Frame(special_tokens=False))
    assert str(CHAT) == r"between '<|im_start|>user\n' and '<|im_end|>\n<|im_start|>assistant\n'"
