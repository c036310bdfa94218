"""Room for answers: the limit always holds, nobody's answer is forgotten that is made or waited for, and who holds most makes way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.kept import AnswerRoom, Place
from runtime.errors import CloudBusyError

MOST = 100


@dataclass(eq=False)
class Answer:
    """One that is made and waited for by hand."""

    room: AnswerRoom
    account: str
    size: int
    over: bool = False
    waiting: int = 1
    left: bool = False
    forgotten: bool = False
    place: Place = field(init=False)

    def __post_init__(self) -> None:
        self.place = self.room.take(self.account, self.size, self._forget)
        answer: Any = self
        self.place.answer = answer

    def _forget(self) -> None:
        assert not self.busy
        self.forgotten = True

    @property
    def busy(self) -> bool:
        return not self.over or self.waiting > 0

    @property
    def held(self) -> bool:
        return self.busy or not (self.left or self.forgotten)

    def now(self, **what: Any) -> Answer:
        """Something of it changes, and its place is told."""
        for name, value in what.items():
            setattr(self, name, value)
        if what.get("left"):
            self.place.leave()
        self.place.changed()
        return self


def unused(room: AnswerRoom, account: str, size: int) -> Answer:
    return Answer(room, account, size).now(over=True, waiting=0)


def test_the_longest_unused_of_who_holds_most_make_way() -> None:
    room = AnswerRoom(MOST)
    greedy = [unused(room, "greedy", 10) for _ in range(7)]
    modest = [unused(room, "modest", 10) for _ in range(3)]
    greedy[0].now(waiting=1).now(waiting=0)  # it was asked for again
    new = Answer(room, "newcomer", 25)
    assert [each.forgotten for each in greedy] == [False, True, True, True, False, False, False]
    assert not any(each.forgotten for each in modest)
    assert (room.bytes, room.forgotten, new.forgotten) == (MOST - 5, 3, False)


def test_what_is_made_or_waits_to_be_read_is_kept_and_who_has_half_of_it_gets_no_more() -> None:
    room = AnswerRoom(MOST)
    unread = [Answer(room, "greedy", 10).now(over=True) for _ in range(5)]
    with pytest.raises(
        CloudBusyError, match=r"50 of at most 100 bytes of answers .*50 of them this account's.*--max-answer-bytes"
    ):
        Answer(room, "greedy", 1)
    other = [Answer(room, "other", 20) for _ in range(1)]
    assert not any(each.forgotten for each in [*unread, *other])
    unread[0].now(waiting=0)
    with pytest.raises(CloudBusyError):
        Answer(room, "greedy", 1)
    for each in unread:
        each.now(waiting=0)
    Answer(room, "greedy", 40)
    assert [each.forgotten for each in unread] == [True, False, False, False, False]


def test_a_session_that_ends_gives_its_room_back_but_for_what_is_still_read() -> None:
    room = AnswerRoom(MOST)
    read, kept = Answer(room, "a", 10).now(over=True, left=True), unused(room, "a", 30)
    kept.now(left=True).now(over=True)
    assert room.bytes == 10
    read.now(waiting=0).now(left=True)
    assert room.bytes == 0
    assert room.forgotten == 0


def test_what_does_not_fit_at_all_is_refused() -> None:
    room = AnswerRoom(MOST)
    with pytest.raises(CloudBusyError):
        room.take("a", MOST + 1, lambda: None)
    assert room.bytes == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "take", "make", "wait", "read", "leave"]),
            st.integers(0, 30),
            st.integers(1, 40),
        ),
        max_size=80,
    )
)
def test_whatever_comes_the_limit_holds_and_counts_are_right(moves: list[tuple[str, int, int]]) -> None:
    room, answers = AnswerRoom(MOST), list[Answer]()
    for move, number, size in moves:
        if move == "take":
            mine = sum(each.size for each in answers if each.account == str(number % 3) and each.busy)
            busy = sum(each.size for each in answers if each.busy)
            try:
                answers.append(Answer(room, str(number % 3), size))
            except CloudBusyError:
                assert mine + size > MOST - busy
            else:
                assert mine + size <= MOST - busy
        elif answers:
            one = answers[number % len(answers)]
            if move == "make":
                one.now(over=True)
            elif move == "wait" and one.held and not (one.left or one.forgotten):
                one.now(waiting=one.waiting + 1)
            elif move == "read" and one.waiting > 1 - one.over:
                one.now(waiting=one.waiting - 1)
            elif move == "leave":
                one.now(left=True)
        assert room.bytes == sum(each.size for each in answers if each.held) <= MOST
        assert room.forgotten == sum(each.forgotten for each in answers)
    for each in answers:
        each.now(over=True, waiting=0).now(left=True)
    assert room.bytes == 0
