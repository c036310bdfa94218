from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.acceptance import accept_greedy

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


def test_lengths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="needs 3 choices"):
        accept_greedy([1, 2], [1, 2])
