from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.rules import accept_greedy, wants_offload

SMALL = st.integers(0, 2)


@given(
    st.lists(SMALL, max_size=6).flatmap(
        lambda d: st.tuples(st.just(d), st.lists(SMALL, min_size=len(d) + 1, max_size=len(d) + 1))
    )
)
def test_keeps_the_longest_equal_prefix_and_adds_the_llms_own_token(case: tuple[list[int], list[int]]) -> None:
    draft, choices = case
    result = accept_greedy(draft, choices)
    assert draft[: result.accepted] == choices[: result.accepted]
    assert result.next_token == choices[result.accepted]
    if result.accepted < len(draft):
        assert draft[result.accepted] != choices[result.accepted]


def test_an_empty_draft_gives_the_next_token() -> None:
    assert accept_greedy([], [4]) == (0, 4)


@pytest.mark.parametrize(("draft", "reads"), [([1, 2, 3], 4), ([1, 9, 3], 2), ([9, 2, 3], 1), ([], 1)])
def test_choices_are_read_only_up_to_the_first_that_differs(draft: list[int], reads: int) -> None:
    read = []

    def choices() -> Iterator[int]:
        for token in (1, 2, 3, 4, 5, 6):  # more than are needed
            read.append(token)
            yield token

    assert accept_greedy(draft, choices()) == (reads - 1, reads)
    assert len(read) == reads


@pytest.mark.parametrize("choices", [[], [1], [1, 2]])
def test_choices_that_end_too_early_are_refused(choices: list[int]) -> None:
    with pytest.raises(ValueError, match=f"a draft of 2 tokens needs 3 choices of the LLM, got {len(choices)}"):
        accept_greedy([1, 2], choices)


def test_after_a_difference_further_choices_need_not_exist() -> None:
    assert accept_greedy([1, 2], [7]) == (0, 7)


@pytest.mark.parametrize(
    ("changes", "sent"),
    [
        ({}, True),
        ({"confidence": 0.5}, False),
        ({"confidence": 1.0, "confidence_threshold": 1.0}, True),
        ({"importance": 0.29}, False),
        ({"offloaded": 2, "budget": 0.5}, False),
        ({"offloaded": 1, "budget": 0.5}, True),
        ({"budget": 0.0}, False),
    ],
)
def test_a_chunk_is_sent_when_uncertain_important_and_affordable(changes: dict[str, float], sent: bool) -> None:
    case = {
        "confidence": 0.4,
        "importance": 0.3,
        "chunk": 4,
        "offloaded": 3,
        "confidence_threshold": 0.5,
        "importance_threshold": 0.3,
        "budget": 1.0,
    }
    assert wants_offload(**(case | changes)) is sent  # type: ignore[arg-type]
