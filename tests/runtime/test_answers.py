"""What is believed of the cloud, whatever it says; each single lie has its row in tests/faults/test_hostile_verifier.py."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.answers import MOST_LOAD, MOST_RETRY_AFTER_SECONDS, read_checked, read_retry_after
from runtime.errors import BadAnswerError
from runtime.wire import synera_pb2 as pb

VOCAB, HISTORY, LONGEST = 50, 20, 3.0
WHOLE = st.integers(0, 9) | st.integers(0, 2**32 - 1)
TIME = st.none() | st.floats(0, 3000) | st.floats()
ANSWERS = st.builds(
    lambda **fields: pb.VerifyResponse(**{name: value for name, value in fields.items() if value is not None}),
    accepted=WHOLE,
    next_token=WHOLE,
    processed_tokens=WHOLE,
    load=WHOLE,
    queue_ms=TIME,
    compute_ms=TIME,
    compute_share_ms=TIME,
)


@given(ANSWERS, st.lists(st.integers(0, VOCAB - 1), max_size=8))
def test_what_is_believed_makes_sense_and_is_what_was_said(answer: pb.VerifyResponse, draft: list[int]) -> None:
    try:
        said = read_checked(answer, history_tokens=HISTORY, draft=draft, vocab=VOCAB, longest_seconds=LONGEST)
    except BadAnswerError:
        return
    assert 0 <= said.accepted <= len(draft)
    assert 0 <= said.next_token < VOCAB
    assert [said.next_token] != draft[said.accepted : said.accepted + 1]
    assert said.processed_tokens <= HISTORY + len(draft)
    assert said.load <= MOST_LOAD
    times = (said.queue_seconds, said.compute_seconds, said.share_seconds)
    assert all(math.isfinite(each) and each >= 0 for each in times)
    assert said.queue_seconds + said.compute_seconds <= LONGEST
    assert times == (answer.queue_ms / 1e3, answer.compute_ms / 1e3, answer.compute_share_ms / 1e3)
    assert (said.accepted, said.next_token) == (answer.accepted, answer.next_token)


@pytest.mark.parametrize("accepted", [0, 2, 3])
def test_an_honest_verdict_is_believed(accepted: int) -> None:
    answer = pb.VerifyResponse(
        accepted=accepted,
        next_token=VOCAB - 1,
        queue_ms=1000,
        compute_ms=2000,
        compute_share_ms=2000,
        processed_tokens=HISTORY + 3,
        load=64,
    )
    said = read_checked(answer, history_tokens=HISTORY, draft=[1, 2, 3], vocab=VOCAB, longest_seconds=LONGEST)
    assert (said.accepted, said.next_token, said.queue_seconds, said.compute_seconds) == (accepted, VOCAB - 1, 1.0, 2.0)
    assert (said.share_seconds, said.processed_tokens, said.load) == (2.0, HISTORY + 3, 64)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("0", 0.0), ("1", 0.001), ("2500", 2.5), ("60000", 60.0), ("60001", 60.0), ("9" * 18, 60.0), ("007", 0.007)],
)
def test_when_to_try_again_is_believed_up_to_a_minute(said: str, seconds: float) -> None:
    assert read_retry_after(said) == seconds


@pytest.mark.parametrize(
    "said", [None, "", "-1", "+1", "1.5", "1e3", " 1", "1 ", "soon", "\u0663", b"5", 5, "9" * 19, "nan", "1_0"]
)
def test_what_is_no_time_to_try_again_is_none(said: object) -> None:
    assert read_retry_after(said) is None


@given(st.text() | st.integers().map(str) | st.binary())
def test_whatever_is_said_of_trying_again_is_within_bounds_or_nothing(said: object) -> None:
    seconds = read_retry_after(said)
    assert seconds is None or 0 <= seconds <= MOST_RETRY_AFTER_SECONDS
