from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.traces.tasks.test_wording import ways
from traces.tasks import answers, scorers, tinyworld, wording
from traces.tasks.answers import TaskError
from traces.tasks.tinyworld import FORMS, SPLITS, Task
from traces.tasks.wording import ATTRIBUTES
from traces.tasks.world import world

tasks = st.builds(
    lambda kind, split, seed, freedom: tinyworld.sample(kind, np.random.default_rng(seed), split, freedom),
    st.sampled_from(FORMS),
    st.sampled_from(SPLITS),
    st.integers(0, 10_000),
    st.sampled_from((0.0, 0.5, 1.0)),
)


def _spoil(answer: str) -> str:
    """The answer with its last digit or last capitalised word changed."""
    if found := list(re.finditer(r"\d", answer)):
        at = found[-1].start()
        return f"{answer[:at]}{(int(answer[at]) + 1) % 10}{answer[at + 1 :]}"
    at = [m.start() for m in re.finditer(r"\w+", answer)][-1]
    return f"{answer[:at]}wrong{answer[-1]}"


# ---------------------------------------------------------------- how it is worded does not count


@settings(max_examples=250, deadline=None)
@given(task=tasks)
def test_every_wording_scores_one(task: Task) -> None:
    assert scorers.score(task.prompt, task.answer) == 1.0
    assert scorers.score(task.prompt, f" {task.answer} ") == 1.0


@settings(max_examples=250, deadline=None)
@given(task=tasks)
def test_wrong_answers_score_below_one_however_worded(task: Task) -> None:
    for answer in ("", "no idea", _spoil(task.answer), task.answer[: len(task.answer) // 2]):
        assert 0.0 <= scorers.score(task.prompt, answer) < 1.0


@settings(max_examples=60, deadline=None)
@given(first=tasks, second=tasks)
def test_another_prompt_s_answer_scores_only_what_agrees(first: Task, second: Task) -> None:
    got = scorers.score(first.prompt, second.answer)
    assert 0.0 <= got <= 1.0
    if first.kind == "sketch":
        assert got == (first.answer == second.answer)
    if first.kind == second.kind == "expansion":
        assert got == (first.prompt == second.prompt)


def _said_of(town: str, attribute: str) -> Iterator[str]:
    """Every way to state a fact of a town."""
    for form in wording.SENTENCES[attribute]:
        for way in ways(form):
            yield way.format(t=town, v=world().facts[town][attribute])


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_way_to_state_a_fact_states_it_and_nothing_else(attribute: str) -> None:
    town = world().towns[1]
    told = {a: f"Describe {town}: {a}." for a in ATTRIBUTES}
    expand = f"Expand {town}: {attribute} {world().facts[town][attribute]}."
    for sentence in _said_of(town, attribute):
        assert {a for a, prompt in told.items() if scorers.score(prompt, sentence) == 1.0} == {attribute}
        assert all(scorers.score(prompt, sentence) in (0.0, 1.0) for prompt in told.values())
        assert scorers.score(expand, sentence) == 1.0


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_what_is_said_of_another_town_or_untrue_states_nothing_of_this_one(attribute: str) -> None:
    first, second = world().towns[1:3]
    prompt = f"Describe {first}: {attribute}."
    expand = f"Expand {first}: {attribute} {world().facts[first][attribute]}."
    assert world().facts[first][attribute] != world().facts[second][attribute]
    for sentence in _said_of(second, attribute):
        assert scorers.score(prompt, sentence) == 0.0
        assert scorers.score(expand, sentence) == 0.0
        assert scorers.score(prompt, sentence.replace(second, first)) < 1.0


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_way_to_answer_a_question_is_right_only_with_the_value(attribute: str) -> None:
    town, other = world().towns[1:3]
    value, wrong = world().facts[town][attribute], world().facts[other][attribute]
    prompt = wording.QUESTIONS[attribute][0].format(t=town)
    for way in (way for form in wording.FACT_ANSWERS for way in ways(form)):
        assert scorers.score(prompt, way.format(a=attribute, t=town, v=value)) == 1.0
        assert scorers.score(prompt, way.format(a=attribute, t=town, v=wrong)) == 0.0
        if "{t}" in way:
            assert scorers.score(prompt, way.format(a=attribute, t=other, v=value)) == 0.0
        if "{a}" in way:
            assert scorers.score(prompt, way.format(a="colour", t=town, v=value)) == 0.0


@pytest.mark.parametrize(
    ("prompt", "forms", "fields", "off"),
    [
        (
            "Mira has 12 apples. Mira buys 30 more. How many apples does Mira have now?",
            wording.RESULTS,
            {"n": "Mira", "i": "apples", "v": "42"},
            {"n": "Otto", "i": "pears", "v": "24"},
        ),
        ("Bill: 3 pens at 12, 2 cups at 30. What is the total?", wording.TOTALS, {"v": "96"}, {"v": "69"}),
    ],
)
def test_every_last_sentence_counts_as_far_as_it_names_things(
    prompt: str, forms: tuple[str, ...], fields: dict[str, str], off: dict[str, str]
) -> None:
    for way in (way for form in forms for way in ways(form)):
        assert scorers.score(prompt, f"It is long. {way.format(**fields)}") == 1.0
        for name in fields:
            wrong = way.format(**{**fields, name: off[name]})
            assert scorers.score(prompt, wrong) == float(f"{{{name}}}" not in way)


# ---------------------------------------------------------------- kind by kind


def test_only_the_final_sentence_of_a_problem_counts_and_it_must_end() -> None:
    prompt = "Mira has 12 apples. Mira buys 30 more. Mira loses 2. Then there are 3 times as many. How many apples does Mira have now?"
    assert scorers.score(prompt, "The answer is 120.") == 1.0
    assert scorers.score(prompt, "12 + 30 = 42. 42 - 2 = 40. 40 x 3 = 120. The answer is 12.") == 0.0
    assert scorers.score(prompt, "The answer is 12. The answer is 120.") == 1.0
    assert scorers.score(prompt, "The answer is 120. The answer is 12.") == 0.0
    assert scorers.score(prompt, "The answer is 120. So") == 0.0
    assert scorers.score(prompt, "The answer is 120") == 0.0
    assert scorers.score(prompt, "40 x 3 = 120.") == 0.0  # a step, not a result


def test_a_fact_s_sentence_must_end() -> None:
    town = world().towns[0]
    river, prompt = world().facts[town]["river"], f"Which river runs through {town}?"
    assert scorers.score(prompt, f"It is {river}.") == 1.0
    assert scorers.score(prompt, f"It is {river}") == 0.0


def _description() -> tuple[str, list[str]]:
    prompt = f"Describe {world().towns[1]}: river, founding, trade, feast."
    return prompt, re.split(r"(?<=\.)\s+", answers.solve(prompt))


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


def test_description_f1_punishes_repetition_but_neither_order_nor_what_states_nothing() -> None:
    prompt, sentences = _description()
    assert scorers.score(prompt, " ".join(reversed(sentences))) == 1.0
    assert scorers.score(prompt, " ".join([*sentences, sentences[0]])) == pytest.approx(14 / 15)
    assert scorers.score(prompt, " ".join([*sentences, "It is a fine place."])) == 1.0
    other = next(_said_of(world().towns[2], "river"))
    assert scorers.score(prompt, " ".join([*sentences, other])) == 1.0


@pytest.mark.parametrize("prompt", ["", "Hello there", "Which river runs through Atlantis?"])
def test_what_is_no_task_has_no_score_and_no_parts(prompt: str) -> None:
    for asked in (scorers.score, scorers.parts):
        with pytest.raises(TaskError, match=re.escape(repr(prompt))):
            asked(prompt, "anything")


# ---------------------------------------------------------------- parts


def _marked(prompt: str, answer: str) -> str:
    """The answer with its facts as `F` and its digits as `#`."""
    letter = {"fact": "F", "digit": "#"}
    return "".join(letter.get(part, c) for c, part in zip(answer, scorers.parts(prompt, answer), strict=True))


def test_values_are_facts_numbers_are_digits_and_the_rest_is_wording() -> None:
    town = world().towns[1]
    question = f"When was {town} founded?"
    assert _marked(question, f"As for {town}, its founding is 1234.") == f"As for {town}, its founding is FFFF."
    assert _marked(f"Who leads {town}?", "It is Mira Voss.") == "It is FFFFFFFFF."
    assert _marked("Bill: 3 pens at 12. What is the total?", "3 pens at 12 cost 36.") == "# pens at ## cost ##."
    problem = "Mira has 12 apples. Mira buys 30 more. How many apples does Mira have now?"
    assert _marked(problem, "Now Mira has 12 + 30 = 42. So Mira has 42 apples now.") == (
        "Now Mira has ## + ## = ##. So Mira has ## apples now."
    )
    assert _marked(f"Sketch {town}: river, mayor.", "river Sala; mayor Mira Voss.") == "river FFFF; mayor FFFFFFFFF."


def test_values_are_facts_whether_true_or_not_and_only_in_a_sentence_that_states_one() -> None:
    town, other = world().towns[1:3]
    said = f"The town of {town} was begun in the year 1999. The Nix is the river of {other}. It is 5. The Nix"
    marked = f"The town of {town} was begun in the year FFFF. The FFF is the river of {other}. It is #. The Nix"
    assert _marked(f"Describe {town}: founding, river.", said) == marked


@settings(max_examples=250, deadline=None)
@given(task=tasks)
def test_every_value_of_an_answer_is_marked_and_no_more(task: Task) -> None:
    parts, told = scorers.parts(task.prompt, task.answer), answers.statements(task.prompt)
    runs = [
        (part, "".join(c for c, _ in run)) for part, run in groupby(zip(task.answer, parts, strict=True), key=itemgetter(1))
    ]
    facts = [text for part, text in runs if part == "fact"]
    digits = [text for part, text in runs if part == "digit"]
    if task.kind in ("problem", "bill"):
        assert (facts, digits) == ([], re.findall(r"\d+", task.answer))
    else:
        assert (sorted(facts), digits) == (sorted(statement.fields["v"] for statement in told), [])
