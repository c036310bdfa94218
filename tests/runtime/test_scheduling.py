from __future__ import annotations

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import SettingError
from runtime.policies import POLICIES, Request
from runtime.scheduling import Scheduler, Slice

ANY = st.sampled_from(sorted(POLICIES))


def check(left: int, *, at: float = 0.0, account: str = "", draft: int = 0, deadline: float = math.inf) -> Request:
    return Request(at, left, draft + 1, account=account, deadline=deadline)


def stream(left: int, *, at: float = 0.0, account: str = "") -> Request:
    return Request(at, left, check=False, account=account)


def having(policy: str, budget: int, *requests: Request) -> Scheduler:
    scheduler = Scheduler(policy, budget)
    for request in requests:
        scheduler.add(request)
    return scheduler


def run(scheduler: Scheduler, now: float = 0.0) -> list[tuple[int, int]]:
    """One forward: number and tokens of each that it ran; what got its result is gone."""
    slices = scheduler.plan(now)
    ran = [(each.request.number, each.tokens) for each in slices]
    scheduler.ran(slices)
    for each in slices:
        if each.request.left == 0:
            scheduler.remove(each.request)
    return ran


# ---------------------------------------------------------------- what holds for all


JOBS = st.lists(
    st.tuples(st.integers(1, 60), st.integers(0, 17), st.booleans(), st.sampled_from("abc"), st.floats(0, 3)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(ANY, st.integers(1, 64), JOBS)
def test_everything_is_run_once_within_the_budget_and_ends_with_its_tail(
    policy: str, budget: int, jobs: list[tuple[int, int, bool, str, float]]
) -> None:
    scheduler, now = Scheduler(policy, budget), 0.0
    coming = [
        Request(at, left, min(left, tail + 1) if is_check else 1, is_check, account)
        for left, tail, is_check, account, at in sorted(jobs, key=lambda job: job[4])
    ]
    want, ran = {id(request): request.left for request in coming}, Counter[int]()
    while coming or len(scheduler):
        while coming and coming[0].arrived <= now:
            scheduler.add(coming.pop(0))
        if not len(scheduler):
            now = coming[0].arrived
            continue
        slices = scheduler.plan(now)
        assert slices
        tokens = sum(each.tokens for each in slices)
        unchunked = slices[0].request.left if policy == "fcfs_whole" else slices[0].request.tail
        assert tokens <= budget or (len(slices) == 1 and slices[0].tokens == unchunked)
        assert len({each.request.number for each in slices}) == len(slices)
        for each in slices:
            assert each.tokens >= 1
            assert each.last or each.request.left - each.tokens >= each.request.tail
            ran[id(each.request)] += each.tokens
        scheduler.ran(slices)
        for each in slices:
            if each.request.left == 0:
                scheduler.remove(each.request)
        now += 0.01 * tokens
    assert ran == want


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_nobody_waits_for_ever_beside_a_stream_of_checks(policy: str) -> None:
    """Others keep coming, more than the budget holds; a long prompt and a decoding stream still get on."""
    prompt, other = stream(2000, account="long"), stream(5, account="decodes")
    scheduler = having(policy, 64, prompt, other)
    for step in range(2000):
        now = 0.05 * step
        for each in range(16):
            scheduler.add(check(5, at=now, draft=4, account=f"device {each}", deadline=now + 0.2))
        slices = scheduler.plan(now)
        scheduler.ran(slices)
        for each in slices:
            if each.request is other and other.left == 0:
                scheduler.goes_on(other, 1)
            elif each.request.left == 0:
                scheduler.remove(each.request)
        for late in [each for each in scheduler if each.check and each.arrived < now - 1.0]:
            scheduler.remove(late)  # its device went away
        if prompt.left == 0 and other.decoding:
            break
    assert prompt.left == 0
    assert other.decoding


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_who_gets_no_room_waits_and_keeps_nobody(policy: str) -> None:
    scheduler = having(policy, 64, check(10), check(11), check(12))
    slices = scheduler.plan(0.0, lambda request, tokens: request.number != 2)
    assert [each.request.number for each in slices] == [1, 3]


def test_what_makes_no_sense_is_told() -> None:
    with pytest.raises(SettingError, match="policy='best'"):
        Scheduler("best")
    with pytest.raises(SettingError, match="token_budget=0"):
        Scheduler(token_budget=0)
    with pytest.raises(SettingError, match="left=0"):
        Scheduler().add(check(0))
    with pytest.raises(SettingError, match="tail=5 must be from 1 to the 4 tokens left"):
        Scheduler().add(check(4, draft=4))


def test_a_slice_knows_whether_it_is_the_last() -> None:
    request = check(9, draft=2)
    assert [Slice(request, tokens).last for tokens in (6, 9)] == [False, True]


# ---------------------------------------------------------------- policies


def test_fcfs_reads_a_long_prompt_before_anybody_behind_it() -> None:
    scheduler = having("fcfs", 100, stream(250), check(5, draft=4))
    assert [run(scheduler) for _ in range(3)] == [[(1, 100)], [(1, 100)], [(1, 50), (2, 5)]]


def test_before_chunks_a_long_prompt_was_read_alone_and_a_stream_went_to_the_end() -> None:
    decoding, long = stream(3), stream(250)
    scheduler = having("fcfs_whole", 100, decoding, check(5, draft=4), long, check(6, draft=4))
    slices = scheduler.plan(0.0)
    scheduler.ran(slices)
    assert [(each.request.number, each.tokens) for each in slices] == [(1, 3), (2, 5)]
    scheduler.goes_on(decoding, 1)
    scheduler.remove(slices[1].request)
    scheduler.add(check(7, draft=4))
    assert [sorted(run(scheduler)) for _ in range(2)] == [[(3, 250)], [(1, 1), (4, 6), (5, 7)]]


def test_verifications_go_before_decoding_and_that_before_prefill() -> None:
    decoding = stream(3)
    scheduler = having("verification_aware", 20, decoding)
    slices = scheduler.plan(0.0)
    scheduler.ran(slices)
    scheduler.goes_on(decoding, 1)
    for request in (stream(250), check(5, draft=4), check(40)):
        scheduler.add(request)
    assert run(scheduler) == [(3, 5), (1, 1), (2, 14)]


def test_a_check_that_catches_up_becomes_short_and_then_goes_first() -> None:
    scheduler = having("verification_aware", 60, check(100, draft=4, account="long"), check(5, draft=4, account="short"))
    assert run(scheduler) == [(2, 5), (1, 55)]
    scheduler.add(check(40, draft=4, account="short"))
    scheduler.add(stream(80, account="short"))
    assert run(scheduler) == [(1, 45), (3, 15)]
    assert run(scheduler) == [(3, 25), (4, 35)]  # now it is short


def test_age_lifts_what_waits() -> None:
    scheduler = having("verification_aware", 10, stream(50, account="b"))
    scheduler.add(check(10, at=1.5, account="a"))
    assert run(scheduler, 1.5) == [(2, 10)]
    scheduler.add(check(10, at=2.1, account="a"))
    assert run(scheduler, 2.1) == [(1, 10)]  # two classes higher, and its account had nothing yet


def test_beside_a_check_prompts_take_a_part_of_the_room() -> None:
    """Also one that has waited long, and alone they take it all."""
    scheduler = having("verification_aware", 512, check(200), check(300, account="b"), check(5, draft=4, account="c"))
    assert run(scheduler) == [(3, 5), (1, 128)]
    assert run(scheduler) == [(1, 72), (2, 300)]
    scheduler = having("verification_aware", 512, stream(200), stream(1))
    assert run(scheduler) == [(1, 200), (2, 1)]
    scheduler = having("verification_aware", 512, stream(200), check(5, draft=4, at=9.0))
    assert run(scheduler, now=9.0) == [(1, 128), (2, 5)]


def test_a_client_that_floods_delays_its_own() -> None:
    scheduler = Scheduler("verification_aware", 20)
    for _ in range(50):
        scheduler.add(check(5, draft=4, account="flood"))
    run(scheduler)
    scheduler.add(check(5, draft=4, account="honest"))
    assert 51 in dict(run(scheduler))


def test_accounts_that_ask_for_much_and_for_little_get_alike() -> None:
    scheduler, had = Scheduler("verification_aware", 64), Counter[str]()
    sizes = {"large": 200, "middle": 60, "small": 33}
    for account, left in sizes.items():
        for _ in range(20_000 // left):
            scheduler.add(stream(left, account=account))
    for _ in range(200):
        slices = scheduler.plan(0.0)
        for each in slices:
            had[each.request.account] += each.tokens
        scheduler.ran(slices)
        for each in slices:
            if each.request.left == 0:
                scheduler.remove(each.request)
    assert max(had.values()) - min(had.values()) <= 2 * 200


def test_who_was_away_brings_no_credit() -> None:
    scheduler = Scheduler("verification_aware", 10)
    for _ in range(30):
        scheduler.add(check(10, account="busy"))
    for _ in range(20):
        run(scheduler)
    for _ in range(10):
        scheduler.add(check(10, account="comes"))
    accounts = {request.number: request.account for request in scheduler}
    order = [accounts[run(scheduler)[0][0]] for _ in range(20)]
    assert all(order[i : i + 4].count("comes") == 2 for i in range(0, 20, 4))


def test_what_was_not_run_is_not_charged() -> None:
    scheduler = Scheduler("verification_aware", 10)
    scheduler.add(check(10, account="other"))
    gone = check(500, account="a")
    scheduler.add(gone)
    scheduler.remove(gone)
    scheduler.add(check(10, account="other"))
    scheduler.add(check(10, account="a"))
    assert [run(scheduler)[0][0] for _ in range(3)] == [1, 4, 3]


def test_earliest_deadline_first() -> None:
    scheduler = having("edf", 5, check(5, deadline=3.0), check(5, deadline=1.0), check(5, at=0.2), stream(5))
    assert [run(scheduler, 0.2)[0][0] for _ in range(4)] == [3, 2, 1, 4]


def test_short_requests_skip_the_queues_of_long_ones() -> None:
    scheduler = having("mlfq", 64, stream(500), check(5, draft=4))
    assert run(scheduler) == [(2, 5), (1, 59)]


def test_who_has_used_up_its_level_sinks() -> None:
    decoding = stream(30)
    scheduler = having("mlfq", 64, decoding)
    levels = []
    for _ in range(4):
        scheduler.ran(scheduler.plan(0.0))
        levels.append(decoding.level)
        scheduler.goes_on(decoding, 1)
    assert levels == [0, 0, 1, 1]  # the first level is for 32 tokens


def test_levels_are_by_powers_of_two() -> None:
    scheduler = having("mlfq", 64, *(stream(left) for left in (1, 32, 33, 64, 65, 128)))
    assert [each.level for each in scheduler] == [0, 0, 1, 1, 2, 2]
