"""The LLM's own answers, many at a time, against one at a time and against what graphs hold where every token is the LLM's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime.errors import ContextOverflowError
from runtime.model.frame import Frame
from tests.support.graphs import AKIN_NEW_TOKENS, tiny_prompts
from traces.synera.graph import GraphSet
from traces.synera.record_answers import greedy_batch, llm_answers
from traces.synera.record_models import Models, greedy_tokens

PROMPTS = [p.text for p in tiny_prompts()]


def test_many_at_a_time_are_those_of_one_at_a_time(akin_models: Models) -> None:
    encoded = [akin_models.encode(text, 12) for text in PROMPTS]
    together = greedy_batch(akin_models.llm, encoded, 12, akin_models.eos_ids)
    assert together == [greedy_tokens(akin_models.llm, ids, 12) for ids in encoded]
    assert {len(said) < 12 for said in together} == {True, False}, "some end by themselves"
    assert greedy_batch(akin_models.llm, encoded, 5, akin_models.eos_ids) == [said[:5] for said in together]


def test_they_are_the_answers_that_graphs_hold(akin_models: Models, akin_graphs: GraphSet) -> None:
    answers = dict(llm_answers(akin_models, PROMPTS, AKIN_NEW_TOKENS))
    assert set(answers) == set(PROMPTS)
    for graph in akin_graphs:
        node, said = 0, []
        while graph.score[node] != graph.score[node]:
            node = int(graph.llm_child[node])
            said.append(int(graph.token[node]))
        assert answers[graph.prompt] == akin_models.tokenizer.decode(said, skip_special_tokens=True)


def test_the_end_of_a_turn_ends_them(akin_models: Models) -> None:
    """A token that no model states, but the frame."""
    ids = akin_models.encode(PROMPTS[0], 12)
    said = greedy_tokens(akin_models.llm, ids, 12)
    chat = replace(akin_models, frame=Frame(ends=(said[2],)))
    cut = said[: said.index(said[2]) + 1]
    assert dict(llm_answers(chat, PROMPTS[:1], 12))[PROMPTS[0]] == akin_models.tokenizer.decode(cut, skip_special_tokens=True)
    assert len(cut) < len(said)


def test_prompts_are_held_to_the_context_before_the_first_is_answered(akin_models: Models) -> None:
    with pytest.raises(ContextOverflowError, match=r"the prompt 'Bill Bill .* has 252 tokens; .* takes 1 to 250"):
        next(llm_answers(akin_models, [*PROMPTS, "Bill " * 250], 6))
