from __future__ import annotations

import re
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from traces.tasks import scorers, tinyworld, vocabulary
from traces.tasks.tinyworld import ATTRIBUTES, FORMS, KINDS, SPLITS, Task, TaskError

COUNT = 40


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return vocabulary.build_tokenizer()


@pytest.fixture(scope="module")
def sampled() -> dict[tuple[str, str], list[Task]]:
    return {(kind, split): tinyworld.tasks(kind, split, COUNT) for kind in FORMS for split in SPLITS}


tasks = st.builds(
    lambda kind, split, seed: tinyworld.sample(kind, np.random.default_rng(seed), split),
    st.sampled_from(FORMS),
    st.sampled_from(SPLITS),
    st.integers(0, 10_000),
)


def _spoil(answer: str) -> str:
    """The answer with its last digit or last capitalised word changed."""
    if found := list(re.finditer(r"\d", answer)):
        at = found[-1].start()
        return f"{answer[:at]}{(int(answer[at]) + 1) % 10}{answer[at + 1 :]}"
    at = [m.start() for m in re.finditer(r"\w+", answer)][-1]
    return f"{answer[:at]}wrong{answer[-1]}"


# ---------------------------------------------------------------- world and splits


def test_the_world_is_one_and_whole() -> None:
    world = tinyworld.world()
    assert len(world.towns) == len(set(world.towns)) == 400
    assert all(tuple(facts) == ATTRIBUTES for facts in world.facts.values())
    assert all(facts["neighbour"] in world.facts and facts["neighbour"] != town for town, facts in world.facts.items())
    assert world.towns[:3] == tinyworld.world().towns[:3]


def test_splits_share_no_prompt(sampled: dict[tuple[str, str], list[Task]]) -> None:
    for kind in FORMS:
        prompts = [{t.prompt for t in sampled[kind, split]} for split in SPLITS]
        assert [len(p) for p in prompts] == [COUNT] * 3
        assert not (prompts[0] & prompts[1] | prompts[0] & prompts[2] | prompts[1] & prompts[2])


def test_a_prompt_s_split_is_a_property_of_its_text(sampled: dict[tuple[str, str], list[Task]]) -> None:
    for (_, split), found in sampled.items():
        assert {tinyworld.split_of(t.prompt) for t in found} == {split}


def test_about_a_tenth_of_the_prompts_is_held_out() -> None:
    held = [tinyworld.split_of(f"prompt {i}") for i in range(4000)]
    for split in ("validation", "test"):
        assert 0.04 < held.count(split) / len(held) < 0.06


def test_tasks_are_the_same_for_the_same_seed_and_others_for_another() -> None:
    for kind in FORMS:
        assert tinyworld.tasks(kind, "test", 5, seed=3) == tinyworld.tasks(kind, "test", 5, seed=3)
        assert tinyworld.tasks(kind, "test", 5, seed=0) != tinyworld.tasks(kind, "test", 5, seed=1)
    assert tinyworld.tasks("bill", "test", 9)[:4] == tinyworld.tasks("bill", "test", 4)


def test_a_stream_draws_kinds_by_weight_and_repeats_itself() -> None:
    weights = {"fact": 3.0, "bill": 1.0, "problem": 0.0}
    first, second = (list(islice(tinyworld.stream(np.random.default_rng(0), weights), 200)) for _ in range(2))
    assert first == second
    assert {t.kind for t in first} == {"fact", "bill"}
    assert 0.65 < sum(t.kind == "fact" for t in first) / 200 < 0.85
    assert {tinyworld.split_of(t.prompt) for t in first} == {"train"}


def test_kinds_and_splits_that_are_not_there_are_errors() -> None:
    with pytest.raises(ValueError, match="'poem'"):
        tinyworld.sample("poem", np.random.default_rng(0))
    with pytest.raises(ValueError, match="'holdout'"):
        tinyworld.sample("fact", np.random.default_rng(0), "holdout")


def test_a_kind_that_runs_out_of_prompts_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    one = tinyworld.tasks("fact", "test", 1)[0]
    monkeypatch.setattr(tinyworld, "sample", lambda *_: one)
    with pytest.raises(ValueError, match="fewer than 2 distinct 'fact' prompts"):
        tinyworld.tasks("fact", "test", 2)


# ---------------------------------------------------------------- answers and scores


@settings(max_examples=150, deadline=None)
@given(task=tasks)
def test_the_prompt_alone_tells_kind_answer_and_a_full_score(task: Task) -> None:
    assert tinyworld.kind_of(task.prompt) == task.kind
    assert tinyworld.solve(task.prompt) == task.answer
    assert scorers.score(task.prompt, task.answer) == 1.0


@settings(max_examples=150, deadline=None)
@given(task=tasks)
def test_wrong_answers_score_below_one(task: Task) -> None:
    for answer in ("", "no idea", _spoil(task.answer), task.answer[: len(task.answer) // 2]):
        assert 0.0 <= scorers.score(task.prompt, answer) < 1.0


@settings(max_examples=60, deadline=None)
@given(first=tasks, second=tasks)
def test_another_prompt_s_answer_scores_only_what_agrees(first: Task, second: Task) -> None:
    got = scorers.score(first.prompt, second.answer)
    assert 0.0 <= got <= 1.0
    if first.kind in ("sketch", "expansion"):
        assert got == (first.answer == second.answer)


def test_word_problems_are_worked_in_order() -> None:
    prompt = "Mira has 12 apples. Mira buys 30 more. Mira loses 2. Then there are 3 times as many. How many apples does Mira have now?"
    assert tinyworld.solve(prompt) == "12 + 30 = 42. 42 - 2 = 40. 40 x 3 = 120. The answer is 120."
    assert scorers.score(prompt, "The answer is 120.") == 1.0  # only the final number counts
    assert scorers.score(prompt, "12 + 30 = 42. 42 - 2 = 40. 40 x 3 = 120. The answer is 12.") == 0.0
    assert scorers.score(prompt, "The answer is 12. The answer is 120.") == 1.0


def test_word_problems_never_go_below_one(sampled: dict[tuple[str, str], list[Task]]) -> None:
    for split in SPLITS:
        for task in sampled["problem", split]:
            assert all(int(value) >= 1 for value in re.findall(r"= (\d+)", task.answer))
            assert "-" not in re.sub(r" - ", "", task.answer)


def test_bills_are_added_up() -> None:
    prompt = "Bill: 3 pens at 12, 2 cups at 30. What is the total?"
    assert tinyworld.solve(prompt) == "3 pens at 12 cost 36, so far 36. 2 cups at 30 cost 60, so far 96. The total is 96."


def test_facts_are_those_of_the_world() -> None:
    town = tinyworld.world().towns[0]
    river = tinyworld.world().facts[town]["river"]
    prompt = f"Which river runs through {town}?"
    assert tinyworld.solve(prompt) == f"The river of {town} is {river}."
    assert scorers.score(prompt, f"It is {river}.") == 1.0
    assert scorers.score(prompt, f"It is {river}") == 0.0  # the sentence never ended


def _description() -> tuple[str, list[str]]:
    town = tinyworld.world().towns[1]
    prompt = f"Describe {town}: river, founding, trade, feast."
    return prompt, re.split(r"(?<=\.)\s+", tinyworld.solve(prompt))


def test_description_f1_falls_with_each_missing_fact() -> None:
    prompt, sentences = _description()
    scores = [scorers.score(prompt, " ".join(sentences[:kept])) for kept in range(5)]
    assert scores[0] == 0.0
    assert scores[4] == 1.0
    assert scores == sorted(set(scores))


def test_description_f1_by_hand() -> None:
    """Facts: river 1 token, year 4 digits, trade 1, feast 1: 7 in all."""
    prompt, sentences = _description()
    assert scorers.score(prompt, sentences[0]) == pytest.approx(2 * 1 / (7 + 1))
    year = re.search(r"\d{4}", sentences[1])
    assert year is not None
    off_by_one_digit = sentences[1].replace(year[0], year[0][:3] + str((int(year[0][3]) + 1) % 10))
    assert scorers.score(prompt, " ".join([sentences[0], off_by_one_digit, *sentences[2:]])) == pytest.approx(6 / 7)


def test_description_f1_punishes_repetition_but_not_order() -> None:
    prompt, sentences = _description()
    assert scorers.score(prompt, " ".join(reversed(sentences))) == 1.0
    assert scorers.score(prompt, " ".join([*sentences, sentences[0]])) == pytest.approx(14 / 15)
    assert scorers.score(prompt, " ".join([*sentences, "It is a fine place."])) == 1.0


@pytest.mark.parametrize(
    "prompt", ["", "Hello there", "Which river runs through Atlantis?", "How many?", "Who leads the world and more?"]
)
def test_prompts_of_no_kind_are_shown(prompt: str) -> None:
    with pytest.raises(TaskError, match=re.escape(repr(prompt))):
        tinyworld.kind_of(prompt)
    with pytest.raises(TaskError):
        scorers.score(prompt, "anything")


@pytest.mark.parametrize(
    "prompt",
    [
        "Describe Atlantis: river.",
        "Sketch nothing",
        "Describe {t}: river, colour.",
        "Bill: nothing at all.",
        "Expand {t}, later: river Sava.",
        "Mira has some apples. How many apples does Mira have now?",
    ],
)
def test_prompts_of_a_kind_that_cannot_be_parsed_are_errors(prompt: str) -> None:
    with pytest.raises(TaskError, match="cannot parse"):
        tinyworld.solve(prompt.format(t=tinyworld.world().towns[0]))


# ---------------------------------------------------------------- tokenizer


@settings(max_examples=150, deadline=None)
@given(task=tasks)
def test_text_survives_the_tokenizer(tokenizer: Tokenizer, task: Task) -> None:
    unknown = tokenizer.token_to_id("<unk>")
    for text in (task.prompt, task.answer):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert unknown not in ids
        assert tokenizer.decode(ids) == text


def test_prompts_are_framed_and_answers_are_bare(tokenizer: Tokenizer) -> None:
    task = tinyworld.tasks("fact", "test", 1)[0]
    framed, bare = tokenizer.encode(task.prompt), tokenizer.encode(task.prompt, add_special_tokens=False)
    assert framed.tokens == ["<bos>", *bare.tokens, "<ans>"]
    assert tokenizer.decode(framed.ids) == task.prompt


def test_numbers_are_single_digits(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("cost 1204.", add_special_tokens=False).tokens == ["cost", "1", "2", "0", "4", "."]


def test_the_vocabulary_is_fixed_and_has_no_double(tokenizer: Tokenizer) -> None:
    words = vocabulary.vocabulary()
    assert words == vocabulary.vocabulary()
    assert len(words) == len(set(words)) == tokenizer.get_vocab_size()
    assert tuple(words[:5]) == vocabulary.SPECIAL_TOKENS
    assert [tokenizer.token_to_id(word) for word in words] == list(range(len(words)))


def test_answers_fit_the_bundled_models(sampled: dict[tuple[str, str], list[Task]], tokenizer: Tokenizer) -> None:
    for kind in KINDS:
        for task in sampled[kind, "test"]:
            assert len(tokenizer.encode(task.prompt).ids) + len(tokenizer.encode(task.answer).ids) < 300
