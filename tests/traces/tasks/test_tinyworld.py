from __future__ import annotations

import re
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from runtime.errors import SettingError
from tests.traces.tasks.test_wording import ways
from traces.tasks import answers, tinyworld, vocabulary, wording
from traces.tasks.answers import TaskError
from traces.tasks.tinyworld import FORMS, KINDS, SPLITS, Task
from traces.tasks.wording import ATTRIBUTES
from traces.tasks.world import world

COUNT = 40


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return vocabulary.build_tokenizer()


@pytest.fixture(scope="module")
def sampled() -> dict[tuple[str, str], list[Task]]:
    return {(kind, split): tinyworld.tasks(kind, split, COUNT) for kind in FORMS for split in SPLITS}


tasks = st.builds(
    lambda kind, split, seed, freedom: tinyworld.sample(kind, np.random.default_rng(seed), split, freedom),
    st.sampled_from(FORMS),
    st.sampled_from(SPLITS),
    st.integers(0, 10_000),
    st.sampled_from((0.0, 0.5, 1.0)),
)


# ---------------------------------------------------------------- world and splits


def test_the_world_is_one_and_whole() -> None:
    assert len(world().towns) == len(set(world().towns)) == 400
    assert all(tuple(facts) == ATTRIBUTES for facts in world().facts.values())
    assert all(facts["neighbour"] in world().facts and facts["neighbour"] != town for town, facts in world().facts.items())
    assert world() is world()


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


# ---------------------------------------------------------------- answers


@settings(max_examples=150, deadline=None)
@given(task=tasks)
def test_the_prompt_alone_tells_kind_and_answer(task: Task) -> None:
    assert answers.kind_of(task.prompt) == task.kind
    assert answers.solve(task.prompt) == answers.worded(task.prompt, np.random.default_rng(0), 0.0)


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(FORMS), seed=st.integers(0, 10_000), freedom=st.sampled_from((0.0, 0.5, 1.0)))
def test_a_worded_answer_says_each_statement_once_in_one_of_its_forms(kind: str, seed: int, freedom: float) -> None:
    task = tinyworld.sample(kind, np.random.default_rng(seed), "train", freedom)
    left = task.answer
    for told in answers.statements(task.prompt):
        said = [text for form in told.forms for way in ways(form) if (text := way.format(**told.fields)) in left]
        assert said
        left = left.replace(max(said, key=len), "", 1)
    assert not left.strip()


def _worded(prompt: str, freedom: float, count: int = 60) -> list[str]:
    rng = np.random.default_rng(0)
    return [answers.worded(prompt, rng, freedom) for _ in range(count)]


def test_without_freedom_there_is_one_answer_and_with_it_there_are_many() -> None:
    for kind in KINDS:
        prompt = tinyworld.tasks(kind, "train", 1)[0].prompt
        assert set(_worded(prompt, 0.0)) == {answers.solve(prompt)}
        assert len(set(_worded(prompt, 1.0))) > 5
        assert answers.solve(prompt) in _worded(prompt, 0.2, 200)
        assert tinyworld.tasks(kind, "train", 1)[0].answer == answers.solve(prompt)


def test_a_description_s_facts_come_in_any_order_and_only_with_freedom() -> None:
    town = world().towns[0]

    def orders(prompt: str, freedom: float) -> set[tuple[int, ...]]:
        values = [told.fields["v"] for told in answers.statements(prompt)]
        return {tuple(np.argsort([said.index(value) for value in values]).tolist()) for said in _worded(prompt, freedom, 200)}

    described = f"Describe {town}: river, founding, mayor."
    assert len(orders(described, 1.0)) == 6
    assert orders(described, 0.0) == {(0, 1, 2)}
    assert orders(f"Sketch {town}: river, founding, mayor.", 1.0) == {(0, 1, 2)}


@pytest.mark.parametrize("freedom", [-0.1, 1.1, float("nan")])
def test_a_freedom_that_is_none_is_refused(freedom: float) -> None:
    rng = np.random.default_rng(0)
    for asked in (
        lambda: answers.worded("Bill: 3 pens at 12. What is the total?", rng, freedom),
        lambda: tinyworld.sample("bill", rng, "train", freedom),
        lambda: next(tinyworld.stream(rng, {"bill": 1.0}, "train", freedom)),
    ):
        with pytest.raises(SettingError, match="freedom"):
            asked()


def test_word_problems_are_worked_in_order() -> None:
    prompt = "Mira has 12 apples. Mira buys 30 more. Mira loses 2. Then there are 3 times as many. How many apples does Mira have now?"
    assert answers.solve(prompt) == "12 + 30 = 42. 42 - 2 = 40. 40 x 3 = 120. The answer is 120."


def test_word_problems_never_go_below_one(sampled: dict[tuple[str, str], list[Task]]) -> None:
    for split in SPLITS:
        for task in sampled["problem", split]:
            assert all(int(value) >= 1 for value in re.findall(r"= (\d+)", task.answer))
            assert "-" not in re.sub(r" - ", "", task.answer)


def test_bills_are_added_up() -> None:
    prompt = "Bill: 3 pens at 12, 2 cups at 30. What is the total?"
    assert answers.solve(prompt) == "3 pens at 12 cost 36, so far 36. 2 cups at 30 cost 60, so far 96. The total is 96."


def test_facts_are_those_of_the_world() -> None:
    town = world().towns[0]
    river = world().facts[town]["river"]
    prompt = f"Which river runs through {town}?"
    assert answers.solve(prompt) == f"The river of {town} is {river}."


@pytest.mark.parametrize(
    "prompt", ["", "Hello there", "Which river runs through Atlantis?", "How many?", "Who leads the world and more?"]
)
def test_prompts_of_no_kind_are_shown(prompt: str) -> None:
    with pytest.raises(TaskError, match=re.escape(repr(prompt))):
        answers.kind_of(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "Describe Atlantis: river.",
        "Sketch nothing",
        "Describe {t}: river, colour.",
        "Bill: nothing at all.",
        "Expand {t}: colour blue.",
        "Expand {t}, first: river Sava.",
        "Mira has some apples. How many apples does Mira have now?",
    ],
)
def test_prompts_of_a_kind_that_cannot_be_parsed_are_errors(prompt: str) -> None:
    with pytest.raises(TaskError, match="cannot parse"):
        answers.solve(prompt.format(t=world().towns[0]))


# ---------------------------------------------------------------- tokenizer


@settings(max_examples=150, deadline=None)
@given(task=tasks)
def test_text_survives_the_tokenizer(tokenizer: Tokenizer, task: Task) -> None:
    unknown = tokenizer.token_to_id("<unk>")
    for text in (task.prompt, task.answer):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert unknown not in ids
        assert tokenizer.decode(ids) == text


def test_every_word_of_every_form_is_in_the_vocabulary(tokenizer: Tokenizer) -> None:
    unknown = tokenizer.token_to_id("<unk>")
    for group in (*wording.FORM_GROUPS, *wording.QUESTIONS.values(), wording.ADD, wording.SUBTRACT, wording.MULTIPLY):
        for way in (way for form in group for way in ways(form)):
            said = way.format(**dict.fromkeys("vakbqpc", "7"), **dict.fromkeys("tnig", "Mira"))
            ids = tokenizer.encode(said, add_special_tokens=False).ids
            assert unknown not in ids
            assert tokenizer.decode(ids) == said


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
