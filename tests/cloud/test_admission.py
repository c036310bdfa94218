from __future__ import annotations

from collections import Counter
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cloud.admission import Admission, Limits, Load, Ticket
from runtime.errors import CloudBusyError, SettingError

CONTEXT = 50
ACCOUNTS = [f"account {i}" for i in range(6)]


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def busy(admission: Admission, account: str, tokens: int = 1, *, stream: bool = False) -> CloudBusyError:
    """The refusal that a request must get."""
    before = len(admission), repr(admission.held)
    with pytest.raises(CloudBusyError) as caught:
        admission.admit(account, tokens, stream=stream)
    assert (len(admission), repr(admission.held)) == before  # it leaves nothing behind
    assert caught.value.retry_after_seconds is not None
    assert 0.05 <= caught.value.retry_after_seconds <= 60
    return caught.value


class Requests(RuleBasedStateMachine):
    """Whatever comes, no limit is passed, and what ended is given back, whichever way it ended."""

    LIMITS = Limits(max_requests=7, max_tokens=100, max_streams=4, account_requests=4, account_streams=2)

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.admission = Admission(self.LIMITS, context_tokens=CONTEXT, now=self.clock)
        self.running: list[tuple[str, Load, Ticket]] = []
        """Account, what it holds, and by what it is given back."""

    def held(self, account: str | None = None) -> Load:
        total = Load()
        for whose, load, _ in self.running:
            if account in (None, whose):
                total.add(load)
        return total

    @rule(account=st.sampled_from(ACCOUNTS), tokens=st.integers(1, CONTEXT), stream=st.booleans())
    def ask(self, account: str, tokens: int, stream: bool) -> None:
        before, of_all = self.held(account), self.held()
        try:
            ticket = self.admission.admit(account, tokens, stream=stream)
        except CloudBusyError:
            # A newcomer finds no room only where everything that it asks for is really held by others.
            if not before:
                free = Load(7 - of_all.requests, 100 - of_all.tokens, 4 - of_all.streams)
                assert free.requests < 1 or free.tokens < tokens or free.streams < stream
            return
        self.running.append((account, Load(1, tokens, int(stream)), ticket))
        mine = self.held(account)  # and it got no more than was free before
        assert mine.requests <= 7 - of_all.requests
        assert mine.tokens <= 100 - of_all.tokens
        assert not stream or mine.streams <= 4 - of_all.streams

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 9), processed=st.none() | st.integers(0, 200))
    def work_ends(self, index: int, processed: int | None) -> None:
        account, load, ticket = self.running.pop(index % len(self.running))
        ticket.worked(processed)
        ticket.worked(processed)  # once more does nothing more
        if load.streams:
            self.running.append((account, Load(streams=1), ticket))

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 9), twice=st.booleans())
    def end(self, index: int, twice: bool) -> None:
        *_, ticket = self.running.pop(index % len(self.running))
        ticket.end()
        if twice:
            ticket.end()

    @rule(seconds=st.sampled_from([0.0, 0.1, 5.0]))
    def wait(self, seconds: float) -> None:
        self.clock.seconds += seconds

    @invariant()
    def no_limit_is_passed(self) -> None:
        total = self.held()
        assert repr(self.admission.held) == repr(total)
        assert (total.requests, total.tokens, total.streams) <= (7, 100, 4)
        assert max(total.requests - 7, total.tokens - 100, total.streams - 4) <= 0
        for account in ACCOUNTS:
            mine = self.held(account)
            assert mine.requests <= 4
            assert mine.streams <= 2

    @invariant()
    def who_holds_nothing_is_forgotten(self) -> None:
        assert len(self.admission) == len({account for account, *_ in self.running})


TestRequests = Requests.TestCase


@given(
    asked=st.lists(st.tuples(st.floats(0, 3), st.integers(1, CONTEXT), st.none() | st.integers(0, 2 * CONTEXT)), max_size=60),
    rate=st.sampled_from([1.0, 20.0]),
    burst=st.sampled_from([1, 60]),
)
def test_no_account_has_more_tokens_in_any_span_than_its_rate_its_burst_and_one_request(
    asked: list[tuple[float, int, int | None]], rate: float, burst: int
) -> None:
    clock = Clock()
    limits = Limits(account_tokens_per_second=rate, account_burst_tokens=burst)
    admission = Admission(limits, context_tokens=CONTEXT, now=clock)
    had: list[tuple[float, int]] = []
    for seconds, tokens, processed in asked:
        clock.seconds += seconds
        try:
            ticket = admission.admit("a", tokens)
        except CloudBusyError:
            continue
        ticket.worked(processed)
        ticket.end()
        had.append((clock.seconds, tokens if processed is None else processed))
    for first in range(len(had)):
        for last in range(first, len(had)):
            span = had[last][0] - had[first][0]
            assert sum(tokens for _, tokens in had[first:last]) <= burst + rate * span + 2 * CONTEXT + 1e-6


def test_who_has_used_up_its_rate_is_told_when_it_has_some_again_and_others_notice_nothing() -> None:
    clock = Clock()
    limits = Limits(account_tokens_per_second=10, account_burst_tokens=20)
    admission = Admission(limits, context_tokens=CONTEXT, now=clock)
    admission.admit("a", 50).end()
    refused = busy(admission, "a")
    assert refused.retry_after_seconds == pytest.approx(3.0)
    assert "used up its 10 tokens per second; send less, or raise --account-tokens-per-second" in str(refused)
    admission.admit("b", 50).end()
    clock.seconds = 2.9
    assert busy(admission, "a").retry_after_seconds == pytest.approx(0.1)
    clock.seconds = 3.1
    admission.admit("a", 1).end()


def test_what_was_not_processed_is_not_charged_and_what_had_to_be_read_again_is() -> None:
    limits = Limits(account_tokens_per_second=10, account_burst_tokens=20)
    admission = Admission(limits, context_tokens=CONTEXT, now=Clock())
    for _ in range(10):
        admission.admit("a", 15).worked(0)
    admission.admit("a", 1).worked(70)
    assert busy(admission, "a").retry_after_seconds == pytest.approx(5.0)


def test_an_account_is_told_what_it_has_too_many_of() -> None:
    limits = Limits(account_requests=3, account_streams=1)
    admission = Admission(limits, context_tokens=CONTEXT, now=Clock())
    admission.admit("a", 1, stream=True)
    said = "this account has 1 streams in flight, of at most 1; wait for their answers, or raise --account-streams"
    assert said in str(busy(admission, "a", stream=True))
    for _ in range(2):
        admission.admit("a", 1)
    assert "has 3 requests in flight, of at most 3" in str(busy(admission, "a"))
    admission.admit("b", 1, stream=True)


def test_one_account_alone_leaves_half_for_others() -> None:
    admission = Admission(Limits(max_requests=8), context_tokens=CONTEXT, now=Clock())
    tickets = [admission.admit("greedy", 1) for _ in range(4)]
    said = str(busy(admission, "greedy"))
    assert "4 of at most 8 requests are in flight, 4 of them this account's" in said
    assert "must stay free for others; try again later, or raise --max-requests" in said
    others = [admission.admit(f"other {i}", 1) for i in range(4)]
    busy(admission, "the ninth")
    for each in (*tickets, *others):
        each.end()
    assert len(admission) == 0


@given(st.lists(st.sampled_from(range(3)), min_size=30, max_size=300))
def test_however_greedy_others_are_there_is_room_for_a_newcomer(asking: list[int]) -> None:
    admission = Admission(Limits(max_tokens=8 * CONTEXT), context_tokens=CONTEXT, now=Clock())
    for account in asking:
        try:
            admission.admit(f"greedy {account}", CONTEXT)
        except CloudBusyError:
            continue
    admission.admit("newcomer", CONTEXT)


def test_the_hint_follows_what_is_processed_a_second() -> None:
    clock = Clock()
    admission = Admission(Limits(max_tokens=100), context_tokens=CONTEXT, now=clock)
    admission.admit("first", 40)
    assert busy(admission, "first", 40).retry_after_seconds == 1.0  # nothing is known yet
    for _ in range(10):
        ticket = admission.admit("worker", 20)
        clock.seconds += 2.0
        ticket.worked(20)
    # Ten tokens a second: 40 + 40 is 20 more than the 60 that are free.
    assert busy(admission, "first", 40).retry_after_seconds == pytest.approx(2.0)
    clock.seconds += 0.0
    assert admission.drain_seconds() == pytest.approx(4.0)


def test_idle_time_says_nothing_of_how_fast_it_is() -> None:
    clock = Clock()
    admission = Admission(Limits(max_tokens=100), context_tokens=CONTEXT, now=clock)
    for _ in range(10):
        clock.seconds += 1000.0
        ticket = admission.admit("worker", 20)
        clock.seconds += 1.0
        ticket.worked(20)
    admission.admit("first", 40)
    assert busy(admission, "first", 40).retry_after_seconds == pytest.approx(1.0)


def test_accounts_that_were_here_once_are_forgotten() -> None:
    clock = Clock()
    limits = Limits(account_tokens_per_second=10, account_burst_tokens=20)
    admission = Admission(limits, context_tokens=CONTEXT, now=clock)
    most = Counter[str]()
    for number in range(5000):
        clock.seconds += 0.01  # a debt of 5 tokens is paid after half a second
        admission.admit(f"account {number}", 5).end()
        most["accounts"] = max(most["accounts"], len(admission))
    assert most["accounts"] <= 130


def test_the_longest_request_is_let_in_by_default_and_must_be() -> None:
    long = 2**20
    Admission(Limits(), context_tokens=long).admit("a", long)
    assert Limits().tokens(CONTEXT) == 262_144
    assert Limits(max_tokens=CONTEXT).tokens(CONTEXT) == CONTEXT
    with pytest.raises(SettingError, match="max_tokens=49 is less than the model's context of 50"):
        Admission(Limits(max_tokens=49), context_tokens=50)


@pytest.mark.parametrize("value", [nan, inf, -1, 0, 2.5, 2**64, True, "5", [5], None])
@pytest.mark.parametrize(
    "name", ["max_requests", "max_streams", "account_sessions", "account_requests", "account_streams", "account_burst_tokens"]
)
def test_a_count_is_one(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=rf"^{name}=.* must be an integer in 1\.\."):
        Limits(**{name: value})


@pytest.mark.parametrize("value", [nan, inf, -1, 0, 1e300, True, "5"])
@pytest.mark.parametrize("name", ["account_tokens_per_second", "unused_seconds", "reader_seconds"])
def test_a_time_or_rate_is_a_number_in_its_range(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=rf"^{name}=.* must be a number in"):
        Limits(**{name: value})
