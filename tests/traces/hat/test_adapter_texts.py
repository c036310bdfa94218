"""Texts of the adapter: dialogues whose answers are right, of one split, and a user's prompts as the model answers them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import ContextOverflowError, SettingError
from runtime.model.decoder import Decoder
from runtime.model.loading import load_decoder
from tests.support.checkpoints import random_ids, save_checkpoint
from traces.hat.adapter_texts import EXCHANGES, OwnTexts, WorldTexts, answered, read_own
from traces.synera.record_models import greedy_tokens
from traces.tasks import scorers, tinyworld, vocabulary

TOKENIZER = vocabulary.build_tokenizer()


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Decoder:
    folder = tmp_path_factory.mktemp("llama")
    save_checkpoint(folder, "Llama")
    return load_decoder(folder)


def words(ids: list[int]) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=False)


def test_what_is_learned_of_a_dialogue_are_its_answers() -> None:
    texts = WorldTexts(TOKENIZER, 512).draw(np.random.default_rng(3), 40)
    earlier = 0
    for text in texts:
        ids = list(text.ids)
        assert len(text.learned) == len(ids)
        exchanges = words(ids).split("<bos> ")[1:]
        learned = [list[int]() for _ in exchanges]
        number = -1
        for i, token in enumerate(ids):
            number += words([token]).strip() == "<bos>"
            if text.learned[i]:
                learned[number].append(ids[i + 1])
        for exchange, tokens in zip(exchanges, learned, strict=True):
            prompt, answer = exchange.split(" <ans> ")
            assert words(tokens).strip() == answer.strip()
            said = answer.replace("<eos>", "").strip()
            assert any(scored(prompt[start:], said) == 1.0 for start in sentences(prompt))
        earlier += len(exchanges) - 1
    assert earlier > 20


def sentences(prompt: str) -> list[int]:
    """Where the question may begin, in a dialogue of words alone."""
    return [0, *(found.end() for found in re.finditer(r"[.?] ", prompt))]


def scored(prompt: str, answer: str) -> float:
    try:
        return scorers.score(prompt, answer)
    except ValueError:  # a part of a prompt
        return 0.0


def test_the_same_generator_draws_the_same() -> None:
    texts = WorldTexts(TOKENIZER, 512)
    one, same, other = (texts.draw(np.random.default_rng(seed), 3) for seed in (1, 1, 2))
    assert one == same != other


def test_a_short_context_leaves_earlier_exchanges_out() -> None:
    texts = WorldTexts(TOKENIZER, 256).draw(np.random.default_rng(0), 60)
    assert 150 < max(len(text.ids) for text in texts) <= 256


@pytest.mark.parametrize("exchanges", [0, EXCHANGES])
def test_prompts_to_measure_are_dialogues_of_the_test_split(exchanges: int) -> None:
    texts = WorldTexts(TOKENIZER, 512, "test")
    for kind in tinyworld.KINDS:
        plain, marked = texts.prompts(np.random.default_rng(0), kind, exchanges, 2)
        assert max(len(plain), len(marked)) <= 224
        for ids in (plain, marked):
            assert words(ids).startswith("<bos> ")
            assert words(ids).endswith(" <ans>")
        asked = [each.split(" <ans>")[0] for each in words(marked).split("<bos> ")[1:]]
        assert all(tinyworld.split_of(prompt) == "test" for prompt in asked)
        assert (len(asked) > 1) == (exchanges > 0)
        assert words(plain).count("<bos>") == 1


def test_own_prompts_are_answered_as_one_at_a_time(decoder: Decoder) -> None:
    prompts = [random_ids(3 + seed, seed).tolist() for seed in range(20)]
    for prompt, text in zip(prompts, answered(decoder, prompts, 10), strict=True):
        answer = greedy_tokens(decoder, prompt, 10)
        assert list(text.ids) == [*prompt, *answer]
        assert list(text.learned) == [False] * (len(prompt) - 1) + [True] * len(answer) + [False]


def test_own_prompts_are_divided_and_must_fit(decoder: Decoder, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("\n".join(tinyworld.tasks("fact", "train", 10)[i].prompt for i in range(10)))
    learned, test = read_own(path, TOKENIZER, decoder, 8)
    assert (len(learned), len(test)) == (8, 2)
    with pytest.raises(ContextOverflowError, match=r"prompts.txt: a prompt has .* at most 4 fit the model's context"):
        read_own(path, TOKENIZER, decoder, 92)
    path.write_text("one\ntwo")
    with pytest.raises(SettingError, match="write at least 3"):
        read_own(path, TOKENIZER, decoder, 8)


def test_own_texts_are_drawn_again_and_again(decoder: Decoder) -> None:
    texts = list(answered(decoder, [[5, 6], [7, 8]], 3))
    drawn = OwnTexts(texts).draw(np.random.default_rng(0), 20)
    assert len(drawn) == 20
    assert {text.ids for text in drawn} == {text.ids for text in texts}
