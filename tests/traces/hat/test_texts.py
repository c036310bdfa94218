from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from runtime.model.tokenizer import encode, load_tokenizer
from tests.support.tokenizers import KINDS
from traces import bundled
from traces.hat.texts import FRAME, private_prompts, public_texts, read, world_words
from traces.tasks.answers import kind_of
from traces.tasks.tinyworld import split_of


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(bundled.PAIR / "llm")


def test_each_token_has_its_place_and_what_is_put_around_has_none(tokenizer: Tokenizer) -> None:
    text = read(tokenizer, "Expand Nimuham: founding 16.", "It is Nimuham, 1")
    assert text.ids[: len(text.ids) - 5] == tuple(encode(tokenizer, text.prompt))
    prompt = ["wording", "fact", "wording", "wording", "digit", "digit", "wording"]
    answer = ["wording", "wording", "fact", "wording", "digit"]
    assert list(text.places) == [FRAME, *(f"prompt {p}" for p in prompt), FRAME, *(f"answer {p}" for p in answer)]


def test_parts_of_words_are_of_their_word() -> None:
    """Tokens that begin with a space, and words in several tokens."""
    tokenizer = KINDS["llama3"]()
    text = read(tokenizer, "What is the river of Dunuham in 1234?", "")
    said = {
        place: tokenizer.decode([t for t, at in zip(text.ids, text.places, strict=True) if at == place])
        for place in text.places
    }
    assert said["prompt fact"].strip() == "Dunuham"
    assert said["prompt digit"].replace(" ", "") == "1234"
    assert said["prompt wording"].split() == "What is the river of in?".split()


def test_names_and_things_are_facts_and_attributes_are_not() -> None:
    assert {"Dunuham", "Mira", "Voss", "combs", "lanterns"} <= world_words()
    assert not {"river", "mayor", "total", "the"} & world_words()
    assert not any(word.isdigit() for word in world_words())


def test_what_the_probe_is_shown_and_what_it_is_tried_on_never_meet(tokenizer: Tokenizer) -> None:
    public = {text.prompt for text in public_texts(tokenizer, 200, 0)}
    private = private_prompts(60, 0)
    assert not public & set(private)
    assert {split_of(prompt) for prompt in public} == {"train"}
    assert {split_of(prompt) for prompt in private} == {"test"}


def test_private_prompts_are_different_and_their_kinds_come_in_turn() -> None:
    prompts = private_prompts(10, 0)
    assert len(set(prompts)) == 10
    assert [kind_of(prompt) for prompt in prompts[:8]] == ["fact", "problem", "bill", "description"] * 2
    assert prompts == private_prompts(10, 0)
    assert prompts != private_prompts(10, 1)


def test_public_texts_are_worded_in_many_ways(tokenizer: Tokenizer) -> None:
    texts = public_texts(tokenizer, 40, 3)
    assert texts == public_texts(tokenizer, 40, 3)
    assert len({len(text.ids) for text in texts}) > 10
