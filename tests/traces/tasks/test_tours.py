"""Tours: prompts, outlines of each level and what is read of them, passages, and what a tour is worth."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import SettingError
from traces.tasks import answers, scorers, tinyworld
from traces.tasks.answers import TaskError, parse_tour
from traces.tasks.tours import (
    LEVELS,
    KeyFact,
    cut,
    draw_facts,
    draw_tour,
    facts_of,
    outline,
    outline_prompt,
    passage,
    passage_prompt,
    read_outline,
    tours,
)
from traces.tasks.vocabulary import build_tokenizer
from traces.tasks.world import world

rngs = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(max_examples=50)
@given(rngs)
def test_a_tour_is_of_several_towns_and_its_canonical_answer_is_worth_one(rng: np.random.Generator) -> None:
    prompt = draw_tour(rng)
    topics = parse_tour(prompt)
    assert answers.kind_of(prompt) == "tour"
    assert 2 <= len({town for town, _ in topics}) <= 4
    assert 5 <= len(topics) == len(set(topics)) <= 12
    assert scorers.score(prompt, answers.solve(prompt)) == 1.0
    assert scorers.score(prompt, passage(facts_of(prompt), rng)) == 1.0


def test_tours_are_distinct_seeded_and_of_their_split() -> None:
    found = tours("test", 40)
    assert len(set(found)) == 40
    assert found == tours("test", 40)
    assert found != tours("test", 40, seed=1)
    assert {tinyworld.split_of(prompt) for prompt in found} == {"test"}
    with pytest.raises(SettingError, match="split"):
        tours("none", 1)


@settings(max_examples=50)
@given(rngs, st.sampled_from(LEVELS))
def test_an_outline_is_read_back_and_its_passage_completes_what_was_cut(rng: np.random.Generator, level: int) -> None:
    prompt = draw_tour(rng)
    facts = facts_of(prompt, level)
    assert read_outline(outline(facts)) == facts
    assert passage(facts) == answers.solve(prompt)
    assert len(outline(facts)) < len(passage(facts))


def test_a_lower_level_is_shorter_on_the_mean() -> None:
    prompts = tours("validation", 60)
    tokenizer = build_tokenizer()

    def tokens(level: int) -> float:
        return float(
            np.mean([len(tokenizer.encode(outline(facts_of(p, level)), add_special_tokens=False).ids) for p in prompts])
        )

    full = np.mean([len(tokenizer.encode(answers.solve(p), add_special_tokens=False).ids) for p in prompts])
    assert tokens(1) < tokens(2) < tokens(3) < 0.5 * full


def test_values_are_cut_by_level() -> None:
    assert [cut("mayor", "Mira Voss", level) for level in LEVELS] == ["", "Mira", "Mira Voss"]
    assert [cut("founding", "1234", level) for level in LEVELS] == ["", "12", "1234"]
    assert [cut("river", "Sarn", level) for level in LEVELS] == ["", "Sarn", "Sarn"]
    with pytest.raises(SettingError, match="level"):
        cut("river", "Sarn", 4)


def test_each_fact_may_have_a_level_of_its_own() -> None:
    prompt = tours("train", 1)[0]
    count = len(parse_tour(prompt))
    levels = [1 + number % 3 for number in range(count)]
    assert facts_of(prompt, levels) == [facts_of(prompt, level)[number] for number, level in enumerate(levels)]
    with pytest.raises(SettingError, match=f"1 levels for {count} facts"):
        facts_of(prompt, [3])


def test_reading_passes_over_what_is_no_key_fact() -> None:
    told = read_outline("Belmora: river Sarn, colour red, feast; nonsense; Marwick: mayor Mira Voss")
    assert told == [
        KeyFact("Belmora", "river", "Sarn"),
        KeyFact("Belmora", "feast", ""),
        KeyFact("Marwick", "mayor", "Mira Voss"),
    ]


def test_what_is_given_is_told_true_or_not_and_only_what_is_true_can_be_cut() -> None:
    town = world().towns[0]
    truth = world().facts[town]
    assert "Nowhere" in passage([KeyFact(town, "river", "Nowhere")])
    assert truth["mayor"] in passage([KeyFact(town, "mayor", truth["mayor"].split()[0])])
    with pytest.raises(TaskError, match="nobody knows how the mayor 'Zed'"):
        passage([KeyFact(town, "mayor", "Zed")])


@settings(max_examples=50)
@given(rngs)
def test_all_that_is_learned_is_in_the_vocabulary(rng: np.random.Generator) -> None:
    tokenizer, prompt, facts = build_tokenizer(), draw_tour(rng), draw_facts(rng)
    unknown = tokenizer.token_to_id("<unk>")
    for text in (prompt, outline_prompt(prompt, 2), outline(facts_of(prompt)), passage_prompt(facts), passage(facts, rng)):
        assert unknown not in tokenizer.encode(text).ids


def test_a_tour_out_of_order_or_with_wrong_facts_is_worth_less() -> None:
    prompt = next(p for p in tours("test", 20) if len(parse_tour(p)) >= 8)
    sentences = re.findall(r"[^.]+\.", answers.solve(prompt))
    whole = scorers.score(prompt, " ".join(sentences))
    assert whole == 1.0
    assert 0 < scorers.score(prompt, " ".join(reversed(sentences))) < 0.6
    assert 0.4 < scorers.score(prompt, " ".join(sentences[: len(sentences) // 2])) < 0.9
    twice = scorers.score(prompt, " ".join([*sentences, *sentences]))
    assert twice == pytest.approx(2 / 3)


@pytest.mark.parametrize("prompt", ["Describe Nowhere: river; Belmora: mayor.", "Describe Belmora: colour; Marwick: river."])
def test_what_is_no_tour_is_named(prompt: str) -> None:
    with pytest.raises(TaskError, match="cannot parse"):
        parse_tour(prompt)
