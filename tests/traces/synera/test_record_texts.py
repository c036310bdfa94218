"""Texts of single tokens, put together, against the tokenizer's own decoding; on kinds of tokenizers that users bring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.support.tokenizers import KINDS
from traces.synera.graph import GraphSet
from traces.synera.record_texts import token_texts

TEXTS = ("The quick brown fox jumps over the lazy dog.", "hello hello there the dog 123", "world")


def read(graphs: GraphSet, tokenizer: Tokenizer, ids: list[int]) -> str:
    texts, joined = token_texts(tokenizer, ids)
    return GraphSet(replace(graphs.meta, texts=texts, joined=joined), graphs._arrays).text(ids)


@pytest.mark.parametrize("kind", ["llama3", "qwen", "llama2", "unigram"])
@pytest.mark.parametrize("text", TEXTS)
def test_tokens_together_read_like_the_text(akin_graphs: GraphSet, kind: str, text: str) -> None:
    tokenizer = KINDS[kind]()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert read(akin_graphs, tokenizer, ids).strip() == tokenizer.decode(ids, skip_special_tokens=False) == text


def test_spaces_of_a_byte_level_tokenizer_are_kept(akin_graphs: GraphSet) -> None:
    tokenizer = KINDS["llama3"]()
    for text in ("  1 2  3\n\tx ", "café naïve"):
        assert read(akin_graphs, tokenizer, tokenizer.encode(text, add_special_tokens=False).ids) == text


def test_the_digits_of_a_number_are_joined_and_words_are_not() -> None:
    tokenizer = KINDS["bundled"]()
    ids = tokenizer.encode("1 2 . town", add_special_tokens=False).ids
    texts, joined = token_texts(tokenizer, ids)
    assert [texts[str(i)] for i in ids] == [" 1", " 2", ".", " town"]
    assert joined == tuple(sorted(ids[:2]))


def test_a_part_of_a_character_and_a_special_token_have_a_text() -> None:
    tokenizer = KINDS["llama3"]()
    part = tokenizer.token_to_id("ä")  # how byte-level tokenizers write the byte E4
    assert part is not None
    texts, joined = token_texts(tokenizer, [part, 0])
    assert texts == {"0": "<|begin_of_text|>", str(part): "\ufffd"}
    assert joined == ()


def test_no_tokens_have_no_texts(tmp_path: Path) -> None:
    assert token_texts(KINDS["qwen"](), []) == ({}, ())
