"""A request until its answer is there or the deadline is: every way, over a client that does what the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.courier import Answered, Courier, Message
from runtime.errors import CloudBusyError, CloudUnavailableError, GivenUpError, LateError, LinkDownError
from tests.support.verifying import ManualClock

NEVER = float("inf")


@dataclass
class Call:
    """One call of the fake client: over after `seconds` of the clock, as `outcome` says."""

    seconds: float = 0.0
    outcome: Any = "answer"
    refused: bool = False


@dataclass
class FakeAsked:
    call: Call
    over: float
    on_end: Callable[[Any], None]
    cancelled: bool = False
    ended: bool = False

    @property
    def refused(self) -> bool:
        return self.call.refused

    def cancel(self) -> None:
        self.cancelled = True

    def answer(self) -> Any:
        if isinstance(self.call.outcome, Exception):
            raise self.call.outcome
        return self.call.outcome


@dataclass
class FakeClient:
    """Makes the calls that are planned, in order, on a clock that jumps from event to event."""

    clock: ManualClock
    planned: list[Call]
    asked: list[FakeAsked] = field(default_factory=list)
    sent_at: list[tuple[float, bool]] = field(default_factory=list)
    """When each call was made, and whether it went elsewhere."""

    def ask(self, method: str, request: Any, seconds: float, on_end: Callable[[Any], None], *, elsewhere: bool) -> FakeAsked:
        assert seconds > 0
        call = self.planned.pop(0)
        self.sent_at.append((round(self.clock.now(), 6), elsewhere))
        self.asked.append(FakeAsked(call, self.clock.now() + call.seconds, on_end))
        return self.asked[-1]

    def late_error(self) -> LateError:
        return LateError("late")

    def wait(self, inbox: Any, seconds: float, calls: int) -> Any:
        """Jump to the next end of a call, or by that time."""
        if not inbox.empty():
            return inbox.get_nowait()
        due = [each for each in self.asked if not each.ended and each.over <= self.clock.now() + seconds]
        if not due:
            self.clock.seconds += seconds
            return None
        first = min(due, key=lambda each: each.over)
        self.clock.seconds, first.ended = max(self.clock.seconds, first.over), True
        first.on_end(first)
        return inbox.get_nowait()


class Link:
    """One-way times of 0.1 s; the copies of these numbers are lost."""

    def __init__(self, lost: set[int]) -> None:
        self.lost, self.copies = lost, 0

    def uplink(self, size_bytes: int) -> float | None:
        self.copies += 1
        return None if self.copies in self.lost else 0.1

    def downlink(self, size_bytes: int) -> float:
        return 0.1


MESSAGE: Message[Any] = Message("Verify", None, 100, lambda answer: answer, lambda said: 10)


def ask(*planned: Call, deadline: float = 2.0, lost: set[int] | None = None) -> tuple[Answered[Any], FakeClient, Courier]:
    client, courier = made(*planned, lost=lost)
    return courier.ask(client, MESSAGE, deadline), client, courier


def made(*planned: Call, lost: set[int] | None = None) -> tuple[FakeClient, Courier]:
    clock = ManualClock()
    client = FakeClient(clock, list(planned))
    link: Any = None if lost is None else Link(lost)
    return client, Courier(clock, link, client.wait)


def test_an_answer_in_time_is_asked_for_once() -> None:
    answered, client, courier = ask(Call(0.9))
    assert answered == ("answer", pytest.approx(0.9), False)
    assert client.sent_at == [(0.0, False)]
    assert courier.take_bytes() == (100, 10)
    assert courier.take_bytes() == (0, 0)


def test_a_request_is_repeated_half_way_elsewhere_and_the_first_answer_counts() -> None:
    answered, client, courier = ask(Call(1.2), Call(0.5))
    assert answered == ("answer", pytest.approx(1.2), False)
    assert client.sent_at == [(0.0, False), (1.0, True)]
    assert [each.cancelled for each in client.asked] == [True, True]
    assert courier.take_bytes() == (200, 10)
    answered, client, _ = ask(Call(NEVER), Call(0.5, "of the second"))
    assert answered == ("of the second", pytest.approx(0.5), True)
    assert client.clock.now() == pytest.approx(1.5)


def test_without_an_answer_it_is_late_at_the_deadline_and_both_calls_are_cancelled() -> None:
    client, courier = made(Call(NEVER), Call(NEVER))
    with pytest.raises(LateError, match="late"):
        courier.ask(client, MESSAGE, 2.0)
    assert client.clock.now() == pytest.approx(2.0)
    assert [each.cancelled for each in client.asked] == [True, True]
    assert courier.take_bytes() == (200, 0)


def test_past_the_deadline_nothing_is_sent() -> None:
    client, courier = made()
    with pytest.raises(LateError):
        courier.ask(client, MESSAGE, 0.0)
    assert client.asked == []
    assert courier.take_bytes() == (0, 0)


def test_a_refused_call_is_made_again_three_times_and_not_repeated() -> None:
    gone = CloudUnavailableError("gone")
    refused = Call(0.0, gone, refused=True)
    client, courier = made(refused, refused, refused, refused)
    with pytest.raises(CloudUnavailableError, match="gone"):
        courier.ask(client, MESSAGE, 1.0)
    assert [at for at, _ in client.sent_at] == [0.0, 0.1, 0.3, 0.7]
    assert courier.take_bytes() == (100, 0)
    answered, client, _ = ask(refused, refused, Call(0.2))
    assert answered.said == "answer"
    assert client.clock.now() == pytest.approx(0.5)


def test_retries_stay_within_the_deadline() -> None:
    refused = Call(0.0, CloudUnavailableError("gone"), refused=True)
    client, courier = made(refused, refused, refused)
    with pytest.raises(CloudUnavailableError, match="gone"):
        courier.ask(client, MESSAGE, 0.5)
    assert [at for at, _ in client.sent_at] == [0.0, 0.1, 0.3]


def test_what_the_cloud_says_instead_is_told_at_once_also_by_the_repeat() -> None:
    client, courier = made(Call(0.2, CloudBusyError("full")))
    with pytest.raises(CloudBusyError):
        courier.ask(client, MESSAGE, 2.0)
    assert client.clock.now() == pytest.approx(0.2)
    client, courier = made(Call(NEVER), Call(0.2, CloudBusyError("full")))
    with pytest.raises(CloudBusyError):
        courier.ask(client, MESSAGE, 2.0)
    assert client.clock.now() == pytest.approx(1.2)


def test_a_repeat_that_breaks_leaves_the_first_copy_its_time() -> None:
    answered, client, _ = ask(Call(1.8), Call(0.1, CloudUnavailableError("cancelled")))
    assert answered == ("answer", pytest.approx(1.8), False)
    assert client.clock.now() == pytest.approx(1.8)


def test_each_copy_crosses_the_link_by_itself() -> None:
    answered, client, courier = ask(Call(0.3), lost=set())
    assert answered == ("answer", pytest.approx(0.5), False)
    assert client.sent_at == [(0.1, False)]
    answered, client, courier = ask(Call(0.3), lost={1})
    assert answered == ("answer", pytest.approx(0.5), True)
    assert client.sent_at == [(1.1, False)]  # nothing is stuck on the first channel
    assert courier.take_bytes() == (200, 10)


def test_what_the_link_lost_is_told_from_what_the_cloud_did_not_answer() -> None:
    for lost, error in (({1, 2}, LinkDownError), ({1}, LateError), (set(), LateError)):
        client, courier = made(Call(NEVER), Call(NEVER), lost=lost)
        with pytest.raises(LateError) as late:
            courier.ask(client, MESSAGE, 2.0)
        assert type(late.value) is error
    client, courier = made(Call(1.85), Call(NEVER), lost={2})
    with pytest.raises(LinkDownError):  # answered, but not here in time
        courier.ask(client, MESSAGE, 2.0)


def test_past_the_link_nothing_counts_and_nothing_takes_time() -> None:
    client, courier = made(Call(0.3), lost={1, 2})
    assert courier.ask(client, MESSAGE, 2.0, over_link=False).seconds == pytest.approx(0.3)
    assert courier.take_bytes() == (0, 0)


def test_what_nobody_waits_for_ends_at_once_and_so_does_what_was_asked_for_before() -> None:
    clock = ManualClock()
    client = FakeClient(clock, [Call(NEVER), Call(0.1)])
    courier = Courier(clock)  # type: ignore[arg-type]
    courier.begin(courier.turn)
    asked, ended = threading.Event(), []
    plain = client.ask

    def ask_and_tell(*arguments: Any, **named: Any) -> Any:
        asked.set()
        return plain(*arguments, **named)

    client.ask = ask_and_tell  # type: ignore[method-assign]

    def work() -> None:
        try:
            courier.ask(client, MESSAGE, 600.0)
        except GivenUpError as error:
            ended.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    assert asked.wait(30)
    courier.stop()
    worker.join(30)
    assert len(ended) == 1
    assert client.asked[0].cancelled
    with pytest.raises(GivenUpError):
        courier.ask(client, MESSAGE, 600.0)
    assert len(client.asked) == 1
    courier.wait = client.wait
    courier.begin(courier.turn)
    assert courier.ask(client, MESSAGE, 600.0).said == "answer"


def test_a_call_of_an_earlier_exchange_changes_nothing() -> None:
    client, courier = made(Call(0.5), Call(NEVER), Call(NEVER), Call(0.9, "mine"))
    courier.ask(client, MESSAGE, 2.0)
    with pytest.raises(LateError):
        courier.ask(client, MESSAGE, 0.51)
    client.asked[1].on_end(client.asked[1])  # its end is heard only now
    assert courier.ask(client, MESSAGE, 4.0).said == "mine"


CALLS = st.builds(
    Call,
    st.floats(0, 3) | st.just(NEVER),
    st.sampled_from(["answer", CloudUnavailableError("gone"), CloudBusyError("full")]),
    st.booleans(),
)


@given(st.lists(CALLS, min_size=12, max_size=12), st.floats(0.001, 4), st.none() | st.sets(st.integers(1, 2)))
def test_whatever_happens_it_ends_by_the_deadline_with_at_most_two_copies(
    planned: list[Call], deadline: float, lost: set[int] | None
) -> None:
    for call in planned:
        call.refused = call.refused and isinstance(call.outcome, CloudUnavailableError)
    client, courier = made(*planned, lost=lost)
    try:
        answered = courier.ask(client, MESSAGE, deadline)
    except (CloudUnavailableError, CloudBusyError):
        pass
    else:
        assert answered.said == "answer"
        assert answered.seconds <= client.clock.now() + 1e-9
    assert client.clock.now() <= deadline + 1e-9
    uplink_bytes, downlink_bytes = courier.take_bytes()
    assert uplink_bytes in (100, 200)
    assert downlink_bytes in (0, 10)
    assert all(each.cancelled or each.call.refused for each in client.asked)
