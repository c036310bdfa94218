"""Chunks that were sent and not answered: their numbers, their repeats, and what a new session is told first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import BadAnswerError
from runtime.hat.uploads import Sent, Uploads
from runtime.wire.sizes import on_the_link

HIDDEN, MOST = 2, 4
ROW = 4 * HIDDEN


def rows(first: int, count: int, mark: int = 0) -> bytes:
    """States that tell their places."""
    return b"".join(bytes([place % 251, mark % 251] * (ROW // 2)) for place in range(first, first + count))


def taken(uploads: Uploads, first: int, count: int, mark: int = 0) -> Sent:
    sent = Sent(first, count, count, "fp32")
    uploads.take(sent, rows(first, count, mark))
    return sent


def answer(uploads: Uploads, sent: Sent) -> None:
    sent.written = True
    assert uploads.answered(sent.seq) is sent


def told(uploads: Uploads) -> list[tuple[int, int, int, bool]]:
    return [(each.seq, each.prefix_length, each.rows, each.own) for each in uploads.unanswered]


def test_chunks_are_numbered_in_their_order_and_a_message_carries_their_states() -> None:
    uploads = Uploads(HIDDEN, MOST)
    one, two = taken(uploads, 0, 3), taken(uploads, 3, 2)
    message = uploads.request(two, "x")
    assert (one.seq, message.seq, message.prefix_length, message.returned) == (1, 2, 3, 2)
    assert message.states == rows(3, 2)
    session_id = "0" * 32
    assert uploads.size(two) == on_the_link(uploads.request(two, session_id).ByteSize())
    assert list(uploads.waiting) == [one, two]


def test_only_the_next_answer_of_what_was_written_is_believed() -> None:
    uploads = Uploads(HIDDEN, MOST)
    one, two = taken(uploads, 0, 3), taken(uploads, 3, 2)
    assert uploads.expected is None
    with pytest.raises(BadAnswerError, match="chunk 1, whose turn it is not"):
        uploads.answered(1)
    one.written = two.written = True
    with pytest.raises(BadAnswerError, match="chunk 2"):
        uploads.answered(2)
    assert uploads.answered(1) is one
    assert uploads.expected is two
    with pytest.raises(BadAnswerError):
        uploads.answered(1)


def test_a_repeat_is_what_is_not_answered_by_the_same_numbers_and_what_is_answered_meanwhile_is_left_out() -> None:
    uploads = Uploads(HIDDEN, MOST)
    sent = [taken(uploads, 2 * i, 2) for i in range(3)]
    before = [uploads.request(each, "x") for each in sent]
    uploads.waiting.clear()
    answer(uploads, sent[0])
    uploads.repeat()
    assert list(uploads.waiting) == sent[1:]
    assert [uploads.request(each, "x") for each in sent[1:]] == before[1:]
    answer(uploads, sent[1])
    assert list(uploads.waiting) == sent[2:]


def test_a_new_session_is_told_what_is_before_in_chunks_that_it_takes() -> None:
    uploads = Uploads(HIDDEN, MOST)
    for first in (0, 3, 6):
        answer(uploads, taken(uploads, first, 3))
    back = taken(uploads, 7, 2, mark=9)
    uploads.move()
    assert told(uploads) == [(1, 0, 4, True), (2, 4, 3, True), (3, 7, 2, False)]
    assert not back.written
    messages = [uploads.request(each, "y") for each in uploads.waiting]
    assert b"".join(each.states for each in messages) == rows(0, 7) + rows(7, 2, 9)
    assert [each.returned for each in messages] == [0, 0, 2]


def test_a_new_session_while_nothing_is_asked_is_told_all_and_one_before_anything_nothing() -> None:
    uploads = Uploads(HIDDEN, MOST)
    uploads.move()
    assert told(uploads) == []
    answer(uploads, taken(uploads, 0, 3))
    answer(uploads, taken(uploads, 2, 3))
    uploads.move()
    assert told(uploads) == [(1, 0, 4, True), (2, 4, 1, True)]
    uploads.move()  # and that one is lost, too
    assert told(uploads) == [(1, 0, 4, True), (2, 4, 1, True)]
    next_one = taken(uploads, 5, 1)
    assert next_one.seq == 3


@given(
    st.lists(
        st.tuples(st.sampled_from(["send", "answer", "repeat", "move"]), st.integers(1, MOST), st.floats(0, 1)), max_size=40
    )
)
def test_whatever_happens_a_cloud_that_follows_the_messages_holds_what_the_device_has_sent(
    moves: list[tuple[str, int, float]],
) -> None:
    """The cloud takes each message once, in the order of numbers, from whoever asks; a new session begins with nothing."""
    uploads, whole, held, seq = Uploads(HIDDEN, MOST), b"", b"", 0

    def follow() -> None:
        nonlocal held, seq
        while uploads.waiting:
            sent = uploads.waiting.popleft()
            message, sent.written = uploads.request(sent, "x"), True
            if message.seq > seq:
                assert message.seq == seq + 1
                assert len(held) >= message.prefix_length * ROW
                held, seq = held[: message.prefix_length * ROW] + message.states, message.seq

    for number, (move, count, share) in enumerate(moves):
        if move == "send":
            # Back only over what is answered: a device decides about no more.
            least = len(whole) // ROW if uploads.unanswered else 0
            first = max(least, round(share * (len(whole) // ROW)))
            taken(uploads, first, count, number)
            whole = whole[: first * ROW] + rows(first, count, number)
        elif move == "answer" and uploads.expected is not None:
            uploads.answered(uploads.expected.seq)
        elif move == "repeat":
            uploads.repeat()
        elif move == "move":
            uploads.move()
            held, seq = b"", 0
        follow()
        assert held == whole
