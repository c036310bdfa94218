from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import SettingError
from traces.hat.drafting import DraftLaw
from traces.hat.testbed import ACCEPT_LENGTH


def test_the_law_has_the_papers_accept_length() -> None:
    assert DraftLaw.of(ACCEPT_LENGTH).accept_length == pytest.approx(2.06)


def test_drawn_drafts_have_the_stated_means() -> None:
    law, uniform = DraftLaw.of(ACCEPT_LENGTH), random.Random(0).random
    drawn = [law.draw(uniform, 100) for _ in range(20_000)]
    assert sum(1 + draft.accepted for draft in drawn) / len(drawn) == pytest.approx(2.06, abs=0.03)
    assert sum(draft.tokens for draft in drawn) / len(drawn) == pytest.approx(law.mean_tokens, abs=0.03)


@given(share=st.floats(0, 1), most=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_a_draft_has_a_token_or_more_and_no_more_than_it_may(share: float, most: int, seed: int) -> None:
    draft = DraftLaw(share).draw(random.Random(seed).random, most)
    assert 1 <= draft.tokens <= min(most, DraftLaw.longest)
    assert 0 <= draft.accepted <= draft.tokens


@pytest.mark.parametrize("length", [1.0, 9.0])
def test_an_accept_length_that_no_share_gives_is_refused(length: float) -> None:
    with pytest.raises(SettingError, match=f"accept_length={length}"):
        DraftLaw.of(length)
