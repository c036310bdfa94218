from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.admission import Admission, Limits
from cloud.engine.base import Check, Checked
from cloud.identity import Client
from cloud.openings import Openings
from cloud.sessions import SessionTable
from cloud.verify import Verification, VerifyRequest
from runtime.errors import (
    CloudBusyError,
    CloudError,
    CloudRejectedError,
    CloudUnavailableError,
    SessionLostError,
    TokenizerMismatchError,
)
from runtime.sampling import TOTAL, Proposal, SampledDraft, Sampling
from tests.support.engine import VOCAB, FakeForward, choice, continuation, fake_engine

PROMPT = [1, 2, 3]
LEASE = 60.0
UNKNOWN = "0" * 32


class World:
    """A verification over a fake forward, whose leases run on `seconds`, and what its engine was told of sessions."""

    def __init__(self, limits: Limits) -> None:
        self.forward, self.seconds = FakeForward(), 0.0
        self.engine = fake_engine(self.forward)
        self.opened: list[str] = []
        self.closed: list[str] = []
        self.table = SessionTable(self._close, max_sessions=4, lease_seconds=LEASE, now=lambda: self.seconds)
        self._engine_open, self.engine.open = self.engine.open, self._open  # type: ignore[method-assign]
        self.admission = Admission(limits, context_tokens=100, now=lambda: self.seconds)
        self.o = Openings(self.engine, self.table, "hash")
        self.v = Verification(self.engine, self.table, self.admission, max_draft_tokens=4)

    async def _open(self, session_id: str, account: str) -> None:
        await self._engine_open(session_id, account)
        self.opened.append(session_id)

    async def _close(self, session_id: str) -> None:
        await self.engine.close(session_id)
        self.closed.append(session_id)


def run(body: Callable[[Verification, World], Awaitable[None]], limits: Limits | None = None) -> None:
    async def live() -> None:
        world = World(limits or Limits())
        await world.engine.start()
        try:
            await body(world.v, world)
            while world.admission.held:  # all is given back, whichever way it ended
                await asyncio.sleep(0)
            assert len(world.admission) == 0
        finally:
            world.forward.gate.set()
            await world.engine.stop()

    asyncio.run(asyncio.wait_for(live(), 60))


def request(session_id: str, seq: int, prefix: int, context: Sequence[int], draft: Sequence[int] = ()) -> VerifyRequest:
    return VerifyRequest(session_id, seq, Check(prefix, context, draft))


def test_only_what_is_new_is_processed() -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash")
        first = await v.verify(request(session_id, 1, 0, PROMPT, [0]))
        held = len(PROMPT) + first.accepted + 1
        second = await v.verify(request(session_id, 2, held, [], [0, 0]))
        assert (first.processed_tokens, second.processed_tokens) == (4, 3)
        assert world.forward.batches == [[4], [3]]
        assert first.load == 1

    run(body)


def test_a_repeat_gets_the_stored_response_also_while_it_runs() -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash")
        world.forward.gate.clear()
        asked = request(session_id, 1, 0, PROMPT, continuation(PROMPT, 2))
        first = asyncio.create_task(v.verify(asked))
        await asyncio.to_thread(world.forward.entered.wait, 30)
        repeat = asyncio.create_task(v.verify(asked))
        await asyncio.sleep(0)
        first.cancel()  # the first caller goes away; its work is not lost
        world.forward.gate.set()
        got: Checked = await repeat
        assert got.accepted == 2
        assert await v.verify(asked) == got
        assert world.forward.batches == [[5]]

    run(body)


@pytest.mark.parametrize("seq", [0, 1, 4])
def test_an_older_or_skipped_seq_is_an_error(seq: int) -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash")
        await v.verify(request(session_id, 1, 0, PROMPT))
        await v.verify(request(session_id, 2, 4, []))
        with pytest.raises(CloudRejectedError, match=rf"seq={seq} is out of order; this session takes 2 .* or 3"):
            await v.verify(request(session_id, seq, 5, []))

    run(body)


def test_one_check_of_a_session_runs_at_a_time() -> None:
    """Whoever sends more is told so at once; neither the running check nor the session notices."""

    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash")
        world.forward.gate.clear()
        asked, following = request(session_id, 1, 0, PROMPT), request(session_id, 2, 4, [])
        running = asyncio.create_task(v.verify(asked))
        await asyncio.to_thread(world.forward.entered.wait, 30)
        for _ in range(100):
            with pytest.raises(CloudBusyError, match="seq=1 of this session still runs; send seq=2 after its answer"):
                await v.verify(following)
        repeat = asyncio.create_task(v.verify(asked))
        world.forward.gate.set()
        assert await running == await repeat
        assert (await running).next_token == choice(PROMPT)
        assert (await v.verify(following)).next_token == continuation(PROMPT, 2)[1]
        assert world.forward.batches == [[3], [1]]

    run(body)


@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize(
    "other",
    [
        (0, [*PROMPT, 4], [5]),
        (0, [1, 2, 4], [5]),
        (0, PROMPT, []),
        (0, PROMPT, [6]),
        (0, [1, 2], [3, 5]),
        (1, PROMPT, [5]),
        (0, [1] * 5000, [5]),
    ],
)
def test_a_repeat_with_other_content_is_rejected_and_changes_nothing(
    other: tuple[int, list[int], list[int]], running: bool
) -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash")
        asked = request(session_id, 1, 0, PROMPT, [5])
        if running:
            world.forward.gate.clear()
        first = asyncio.create_task(v.verify(asked))
        await asyncio.to_thread(world.forward.entered.wait, 30)
        if not running:
            await first
        with pytest.raises(CloudRejectedError, match=r"seq=1 was asked before, with other content.*next is seq=2"):
            await v.verify(request(session_id, 1, *other))
        world.forward.gate.set()
        assert await v.verify(asked) == await first
        assert (await v.verify(request(session_id, 2, 4, []))).next_token == continuation(PROMPT, 2)[1]
        assert world.forward.batches == [[4], [1]]

    run(body)


def sampled(
    seed: int = 0, temperature: float = 1.0, weights: tuple[int, ...] = (TOTAL - 2, 2), ids: tuple[int, ...] = (5, 6)
) -> SampledDraft:
    return SampledDraft(Sampling(temperature, seed=seed), (Proposal(ids, weights),))


@pytest.mark.parametrize(
    "other",
    [
        None,
        sampled(seed=1),
        sampled(temperature=1.5),
        sampled(weights=(TOTAL - 3, 3)),
        sampled(ids=(5, 7)),
        sampled(ids=(6, 5)),
    ],
)
def test_how_a_draft_was_sampled_is_part_of_what_a_repeat_repeats(other: SampledDraft | None) -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash")
        first = VerifyRequest(session_id, 1, Check(0, PROMPT, [5], sampled()))
        got = await v.verify(first)
        assert await v.verify(VerifyRequest(session_id, 1, Check(0, PROMPT, [5], sampled()))) == got
        with pytest.raises(CloudRejectedError, match=r"seq=1 was asked before, with other content"):
            await v.verify(VerifyRequest(session_id, 1, Check(0, PROMPT, [5], other)))

    run(body)


def test_a_proposed_token_that_the_llm_does_not_know_is_rejected() -> None:
    async def body(v: Verification, world: World) -> None:
        asked = VerifyRequest(await world.o.open("hash"), 1, Check(0, PROMPT, [5], sampled(ids=(5, VOCAB))))
        with pytest.raises(CloudRejectedError, match=f"token {VOCAB} is outside the LLM's vocabulary"):
            await v.verify(asked)
        assert world.forward.batches == []

    run(body)


def test_a_bug_is_logged_also_when_nobody_stayed_to_see_it(caplog: pytest.LogCaptureFixture) -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash")
        asked = asyncio.Event()

        async def check(session_id: str, check: Check) -> Checked:
            asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                _ = 1 // 0
            raise AssertionError

        world.engine.check = check  # type: ignore[method-assign]
        caller = asyncio.create_task(v.verify(request(session_id, 1, 0, PROMPT)))
        await asked.wait()
        caller.cancel()
        await asyncio.wait([caller])
        while not caplog.records:
            await asyncio.sleep(0)

    run(body)
    [record] = caplog.records
    assert record.getMessage() == "unwatched work failed"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


def test_a_history_that_is_not_here_is_a_lost_session() -> None:
    async def body(v: Verification, world: World) -> None:
        with pytest.raises(SessionLostError, match=f"no session '{UNKNOWN}'"):
            await v.verify(request(UNKNOWN, 1, 0, PROMPT))
        with pytest.raises(SessionLostError, match="holds 0 tokens, not the 3"):
            await v.verify(request(await world.o.open("hash"), 1, 3, [1]))

    run(body)


@pytest.mark.parametrize(
    ("context", "draft", "message"),
    [
        ([], [], "send at least one token"),
        (PROMPT, [0] * 5, "a draft of 5 tokens is too long; send at most 4"),
        ([1] * 98, [1] * 3, "98 tokens of history and 3 of draft exceed the LLM's context of 100"),
        ([1, VOCAB], [], f"token {VOCAB} is outside the LLM's vocabulary of {VOCAB}"),
        (PROMPT, [VOCAB + 7], f"token {VOCAB + 7} is outside"),
    ],
)
def test_a_wrong_request_is_rejected_with_value_and_way_out_and_harms_nothing(
    context: list[int], draft: list[int], message: str
) -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash")
        with pytest.raises(CloudRejectedError, match=message):
            await v.verify(request(session_id, 1, 0, context, draft))
        got = await v.verify(request(session_id, 2, 0, PROMPT))
        assert got.next_token == choice(PROMPT)

    run(body)


def test_the_context_can_be_used_to_its_end() -> None:
    async def body(v: Verification, world: World) -> None:
        prompt = [1] * 98
        got = await v.verify(request(await world.o.open("hash"), 1, 0, prompt, continuation(prompt, 2)))
        assert got.accepted == 2

    run(body)


def test_an_engine_failure_is_told_and_the_session_lives_on() -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash")
        await v.verify(request(session_id, 1, 0, PROMPT))
        world.forward.failures.append(RuntimeError("out of memory"))
        with pytest.raises(CloudError, match="out of memory"):
            await v.verify(request(session_id, 2, 4, [], [0]))
        got = await v.verify(request(session_id, 3, 4, []))
        assert got.next_token == continuation(PROMPT, 2)[1]

    run(body)


def test_what_is_no_session_id_is_refused_before_any_lookup() -> None:
    async def body(v: Verification, world: World) -> None:
        world.table.get = world.table.close = None  # type: ignore[method-assign,assignment]
        for call in (v.verify(request("unknown", 1, 0, PROMPT)), world.o.close("unknown")):
            with pytest.raises(CloudRejectedError, match="session_id='unknown' is not 32"):
                await call

    run(body)


@pytest.mark.parametrize("prefix", [2**32 - 1, 101, 100])
def test_a_prefix_beyond_the_context_is_rejected(prefix: int) -> None:
    async def body(v: Verification, world: World) -> None:
        with pytest.raises(CloudRejectedError, match=f"{prefix + 1} tokens of history.* exceed the LLM's context of 100"):
            await v.verify(request(await world.o.open("hash"), 1, prefix, [1]))
        assert world.forward.batches == []

    run(body)


def test_another_tokenizer_is_refused_naming_both() -> None:
    async def body(v: Verification, world: World) -> None:
        with pytest.raises(TokenizerMismatchError, match=r"'other'.*'hash'"):
            await world.o.open("other")

    run(body)


def test_every_session_that_ends_is_closed_in_the_engine() -> None:
    async def body(v: Verification, world: World) -> None:
        closed, expired, kept = [await world.o.open("hash") for _ in range(3)]
        await world.o.close(closed)
        assert world.closed == [closed]
        world.seconds = LEASE / 2
        await v.verify(request(kept, 1, 0, PROMPT))
        world.seconds = LEASE
        await v.verify(request(kept, 2, 4, []))
        await asyncio.sleep(0)
        assert world.closed == [closed, expired]
        with pytest.raises(SessionLostError, match=f"no session '{expired}'"):
            await v.verify(request(expired, 1, 0, PROMPT))

    run(body)


def test_a_running_session_does_not_expire() -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash")
        world.forward.gate.clear()
        task = asyncio.create_task(v.verify(request(session_id, 1, 0, PROMPT)))
        await asyncio.to_thread(world.forward.entered.wait, 30)
        world.seconds = 2 * LEASE
        assert len(world.table) == 1
        world.forward.gate.set()
        await task
        world.seconds += LEASE / 2  # the lease began again at the end
        await v.verify(request(session_id, 2, 4, []))
        assert world.closed == []

    run(body)


def test_a_session_that_the_engine_does_not_open_takes_no_place() -> None:
    async def body(v: Verification, world: World) -> None:
        await world.engine.stop()
        for _ in range(9):  # more than there are places
            with pytest.raises(CloudUnavailableError, match="shutting down"):
                await world.o.open("hash")
        assert len(world.table) == 0

    run(body)


def test_a_caller_who_goes_away_while_a_session_opens_leaves_nothing_open() -> None:
    async def body(v: Verification, world: World) -> None:
        opened, never = world.opened, asyncio.Event()
        plain = world.engine.open

        async def slow(session_id: str, account: str) -> None:
            await plain(session_id, account)
            await never.wait()

        world.engine.open = slow  # type: ignore[method-assign]
        task = asyncio.create_task(world.o.open("hash"))
        while not opened:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        await world.table.closed()
        assert (world.closed, len(world.table)) == (opened, 0)

    run(body)


def test_a_check_of_a_session_that_is_closed_meanwhile_is_lost() -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash")
        world.forward.gate.clear()
        task = asyncio.create_task(v.verify(request(session_id, 1, 0, PROMPT)))
        await asyncio.to_thread(world.forward.entered.wait, 30)
        await world.o.close(session_id)
        with pytest.raises(SessionLostError):
            await task

    run(body)


# ---------------------------------------------------------------- what nobody waits for


async def gone(*callers: asyncio.Task[Any]) -> None:
    """Have callers go away."""
    for each in callers:
        each.cancel()
    await asyncio.wait(callers)


async def started(v: Verification, world: World, session_id: str, seq: int = 1) -> asyncio.Task[Checked]:
    """A check that is in the engine's hands and gets no further before the gate opens."""
    world.forward.gate.clear()
    world.forward.entered.clear()
    held_up = asyncio.create_task(v.verify(request(session_id, seq, 0, PROMPT)))
    await asyncio.to_thread(world.forward.entered.wait, 30)
    return held_up


def test_a_check_that_nobody_waits_for_never_runs() -> None:
    async def body(v: Verification, world: World) -> None:
        first, second = await world.o.open("hash"), await world.o.open("hash")
        held_up = await started(v, world, first)
        waiting = [asyncio.create_task(v.verify(request(second, 1, 0, [4] * 9))) for _ in range(2)]
        await asyncio.sleep(0.01)
        await gone(waiting[0])
        assert world.admission.held.requests == 2
        await gone(waiting[1])
        while world.admission.held.requests > 1:
            await asyncio.sleep(0)
        world.forward.gate.set()
        await held_up
        assert (await v.verify(request(first, 2, 4, []))).next_token == continuation(PROMPT, 2)[1]
        assert world.forward.batches == [[3], [1]]

    run(body)


def test_a_check_that_was_dropped_runs_again_when_it_is_asked_for_again() -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash")
        await gone(await started(v, world, session_id))  # its forward goes on, unseen
        for _ in range(3):
            again = asyncio.create_task(v.verify(request(session_id, 1, 0, PROMPT)))
            await asyncio.sleep(0)
            await gone(again)
        with pytest.raises(CloudRejectedError, match="seq=1 was asked before, with other content"):
            await v.verify(request(session_id, 1, 0, [4]))
        again = asyncio.create_task(v.verify(request(session_id, 1, 0, PROMPT)))
        await asyncio.sleep(0)
        world.forward.gate.set()
        got = await again
        assert got.next_token == choice(PROMPT)
        assert await v.verify(request(session_id, 1, 0, PROMPT)) == got
        assert (await v.verify(request(session_id, 2, 4, []))).next_token == continuation(PROMPT, 2)[1]

    run(body)


def test_after_a_check_that_was_dropped_the_next_may_come() -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash")
        await gone(await started(v, world, session_id))
        following = asyncio.create_task(v.verify(request(session_id, 2, 0, [7])))
        await asyncio.sleep(0)
        world.forward.gate.set()
        assert (await following).next_token == choice([7])
        with pytest.raises(CloudRejectedError, match="seq=1 is out of order"):
            await v.verify(request(session_id, 1, 0, PROMPT))

    run(body)


def test_the_engine_has_one_check_of_a_session_at_a_time_also_while_one_that_was_dropped_ends() -> None:
    async def body(v: Verification, world: World) -> None:
        session_id, inside, most = await world.o.open("hash"), 0, []
        plain = world.engine.check

        async def check(session_id: str, check: Check) -> Checked:
            nonlocal inside
            inside += 1
            most.append(inside)
            try:
                return await plain(session_id, check)
            finally:
                for _ in range(5):  # an engine whose checks take a while to end
                    await asyncio.sleep(0)
                inside -= 1

        world.engine.check = check  # type: ignore[method-assign]
        for rounds in range(6):
            caller = asyncio.create_task(v.verify(request(session_id, 1, 0, PROMPT)))
            for _ in range(rounds):
                await asyncio.sleep(0)
            await gone(caller)
        assert (await v.verify(request(session_id, 1, 0, PROMPT))).next_token == choice(PROMPT)
        assert max(most) == 1

    run(body)


def test_the_end_of_a_session_ends_its_work_and_its_callers_are_told() -> None:
    async def body(v: Verification, world: World) -> None:
        first, second = await world.o.open("hash"), await world.o.open("hash")
        held_up = await started(v, world, first)
        waiting = [asyncio.create_task(v.verify(request(second, 1, 0, [4] * 9))) for _ in range(2)]
        await asyncio.sleep(0.01)
        await world.o.close(second)
        for each in waiting:
            with pytest.raises(SessionLostError, match="open a new one and send the whole history"):
                await each
        assert world.admission.held.requests == 1
        world.forward.gate.set()
        await held_up
        assert world.forward.batches == [[3]]

    run(body)


def test_a_hostile_loop_leaves_no_backlog() -> None:
    async def body(v: Verification, world: World) -> None:
        held_up = await started(v, world, await world.o.open("hash"))
        for _ in range(300):
            session_id = await world.o.open("hash")
            caller = asyncio.create_task(v.verify(request(session_id, 1, 0, [4] * 90)))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await gone(caller)
            await world.o.close(session_id)
        assert (len(world.table), world.admission.held.requests) == (1, 1)
        world.forward.gate.set()
        await held_up
        assert world.forward.batches == [[3]]

    run(body)


@pytest.mark.parametrize(("known", "told"), [(None, 1.0), (7.5, 7.5)])
def test_an_engine_that_can_hold_no_more_is_busy_with_a_hint_and_the_check_may_come_again(
    known: float | None, told: float
) -> None:
    async def body(v: Verification, world: World) -> None:
        session_id, plain = await world.o.open("hash"), world.engine.check

        async def full(session_id: str, check: Check) -> Checked:
            raise CloudBusyError("the pool is full", known)

        world.engine.check = full  # type: ignore[method-assign]
        for _ in range(2):
            with pytest.raises(CloudBusyError, match="the pool is full") as caught:
                await v.verify(request(session_id, 1, 0, PROMPT))
            assert caught.value.retry_after_seconds == told
        world.engine.check = plain  # type: ignore[method-assign]
        assert (await v.verify(request(session_id, 2, 0, PROMPT))).next_token == choice(PROMPT)
        assert (await v.verify(request(session_id, 3, 4, []))).next_token == continuation(PROMPT, 2)[1]

    run(body)


# ---------------------------------------------------------------- whose it is

ONE, OTHER = Client("one", "account 1"), Client("other", "account 2")


def test_anothers_session_is_as_unknown_as_none_at_all() -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash", client=ONE)
        messages = []
        for asked in (session_id, UNKNOWN):
            with pytest.raises(SessionLostError) as caught:
                await v.verify(request(asked, 1, 0, PROMPT), OTHER)
            messages.append(str(caught.value).replace(asked, "ID"))
            await world.o.close(asked, client=OTHER)
        assert messages[0] == messages[1]
        assert world.closed == []
        elsewhere = Client(ONE.name, "another connection of its own")
        assert (await v.verify(request(session_id, 1, 0, PROMPT), elsewhere)).next_token == choice(PROMPT)
        await world.o.close(session_id, client=elsewhere)
        assert world.closed == [session_id]

    run(body)


def test_a_key_opens_and_closes_only_what_is_its_owners() -> None:
    async def body(v: Verification, world: World) -> None:
        mine, theirs = await world.o.open("hash", KEY, ONE), await world.o.open("hash", KEY, OTHER)
        assert mine != theirs
        assert (await world.o.open("hash", KEY, ONE), await world.o.open("hash", KEY, OTHER)) == (mine, theirs)
        await world.o.close("", KEY, OTHER)
        assert world.closed == [theirs]
        await world.o.close("", KEY, OTHER)
        assert world.closed == [theirs]
        assert await world.o.open("hash", KEY, ONE) == mine

    run(body)


def test_work_is_charged_to_the_sessions_account() -> None:
    async def body(v: Verification, world: World) -> None:
        accounts, plain = [], world.engine.open

        async def engine_open(session_id: str, account: str) -> None:
            accounts.append(account)
            await plain(session_id, account)

        world.engine.open = engine_open  # type: ignore[method-assign]
        session_id = await world.o.open("hash", client=ONE)
        assert accounts == [ONE.account]
        held_up = await started_as(v, world, session_id, ONE)
        second = await world.o.open("hash", client=ONE)
        with pytest.raises(CloudBusyError, match="this account has 1 requests in flight, of at most 1") as caught:
            await v.verify(request(second, 1, 0, PROMPT), Client(ONE.name, "another connection of its own"))
        assert (caught.value.retry_after_seconds or 0) > 0
        others = asyncio.create_task(v.verify(request(await world.o.open("hash", client=OTHER), 1, 0, [4]), OTHER))
        await asyncio.sleep(0.01)
        world.forward.gate.set()
        await held_up
        assert (await others).next_token == choice([4])
        # A refusal changes nothing: the same number may now ask for something else.
        assert (await v.verify(request(second, 1, 0, [9]), ONE)).next_token == choice([9])

    run(body, Limits(account_requests=1))


async def started_as(v: Verification, world: World, session_id: str, client: Client) -> asyncio.Task[Checked]:
    world.forward.gate.clear()
    held_up = asyncio.create_task(v.verify(request(session_id, 1, 0, PROMPT), client))
    await asyncio.to_thread(world.forward.entered.wait, 30)
    return held_up


def test_only_a_verdict_renews_a_lease() -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash")
        await v.verify(request(session_id, 1, 0, PROMPT))
        world.seconds = LEASE / 2
        for wrong in (request(session_id, 7, 0, PROMPT), request(session_id, 1, 0, [4]), request(session_id, 2, 0, [VOCAB])):
            with pytest.raises(CloudRejectedError):
                await v.verify(wrong)
        await gone(await started(v, world, session_id, 3))
        world.forward.gate.set()
        while world.admission.held:
            await asyncio.sleep(0)
        world.seconds = LEASE
        with pytest.raises(SessionLostError):
            await v.verify(request(session_id, 4, 0, PROMPT))

    run(body)


# ---------------------------------------------------------------- opens whose callers went away


@pytest.mark.parametrize("key", ["", "0" * 31 + "1"])
def test_a_session_whose_id_could_not_be_sent_ends_at_once(key: str) -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash", key)
        world.o.unsent(session_id)
        world.o.unsent(UNKNOWN)
        await world.table.closed()
        assert (world.closed, len(world.table), world.o._keyed, world.o._openings) == ([session_id], 0, {}, {})

    run(body)


def test_a_repeat_that_got_the_id_or_waits_for_it_keeps_the_session() -> None:
    async def body(v: Verification, world: World) -> None:
        session_id = await world.o.open("hash", KEY)
        assert await world.o.open("hash", KEY) == session_id
        world.o.unsent(session_id)
        assert len(world.table) == 1
        world.o.unsent(session_id)
        assert len(world.table) == 0
        session_id = await world.o.open("hash", KEY)
        await v.verify(request(session_id, 1, 0, PROMPT))
        world.o.unsent(session_id)  # somebody knows it all the same
        assert len(world.table) == 1

    run(body)


def test_an_open_whose_callers_all_went_away_is_dropped_and_may_come_again_at_once() -> None:
    async def body(v: Verification, world: World) -> None:
        plain, opening, allowed = world.engine.open, asyncio.Event(), asyncio.Event()

        async def slow(session_id: str, account: str) -> None:
            await plain(session_id, account)
            opening.set()
            await allowed.wait()

        world.engine.open = slow  # type: ignore[method-assign]
        callers = [asyncio.create_task(world.o.open("hash", KEY)) for _ in range(3)]
        await opening.wait()
        await gone(*callers)
        again = asyncio.create_task(world.o.open("hash", KEY))
        allowed.set()
        session_id = await again
        assert world.opened[1:] == [session_id]
        await world.table.closed()
        assert (world.closed, len(world.table), len(world.o._keyed)) == (world.opened[:1], 1, 1)

    run(body)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_however_callers_come_and_go_nothing_is_kept_of_those_who_went(callers: list[tuple[bool, int, int]]) -> None:
    async def body(v: Verification, world: World) -> None:
        async def call(keyed: bool, comes: int, stays: int) -> str | None:
            for _ in range(comes):
                await asyncio.sleep(0)
            asked = asyncio.create_task(world.o.open("hash", KEY if keyed else ""))
            for _ in range(stays):
                await asyncio.sleep(0)
            asked.cancel()
            await asyncio.wait([asked])
            return None if asked.cancelled() or asked.exception() else asked.result()

        got = {each for each in await asyncio.gather(*(call(*each) for each in callers)) if each}
        await asyncio.sleep(0.01)
        await world.table.closed()
        left = [*world.table._unused]
        assert set(left) <= got  # every session is known to somebody
        assert set(world.o._openings) == set(left)
        assert len(world.o._keyed) <= 1
        assert sorted(world.closed) == sorted(set(world.opened) - set(left))

    run(body)


# ---------------------------------------------------------------- keys

KEY, OTHER_KEY = "0" * 31 + "1", "0" * 31 + "2"


def test_a_repeated_open_gets_the_same_session_as_long_as_it_lives() -> None:
    async def body(v: Verification, world: World) -> None:
        first = await world.o.open("hash", KEY)
        assert await world.o.open("hash", KEY) == first
        assert await world.o.open("hash", OTHER_KEY) not in (first, await world.o.open("hash"))
        assert len(world.table) == 3
        await world.o.close(first)
        again = await world.o.open("hash", KEY)
        assert again != first
        world.seconds += LEASE / 2
        assert await world.o.open("hash", KEY) == again  # which renews the lease
        world.seconds += LEASE / 2
        assert await world.o.open("hash", KEY) == again
        world.seconds += LEASE
        assert await world.o.open("hash", KEY) not in (first, again)
        assert len(world.o._keyed) == len(world.table) == 1  # nothing is kept of those that ended

    run(body)


def test_repeats_that_come_while_it_opens_get_the_same_session_and_may_go_away() -> None:
    async def body(v: Verification, world: World) -> None:
        plain, opening, allowed = world.engine.open, asyncio.Event(), asyncio.Event()

        async def slow(session_id: str, account: str) -> None:
            opening.set()
            await allowed.wait()
            await plain(session_id, account)

        world.engine.open = slow  # type: ignore[method-assign]
        tasks = [asyncio.create_task(world.o.open("hash", KEY)) for _ in range(3)]
        await opening.wait()
        tasks[0].cancel()
        await asyncio.wait(tasks[:1])
        allowed.set()
        assert await tasks[1] == await tasks[2] == world.opened[0]
        assert (len(world.opened), world.closed, len(world.table)) == (1, [], 1)

    run(body)


def test_an_open_whose_caller_never_got_the_id_is_released_by_its_key() -> None:
    async def body(v: Verification, world: World) -> None:
        await world.o.open("hash", KEY)
        await world.o.close("", OTHER_KEY)
        assert world.closed == []
        await world.o.close("", KEY)
        await world.o.close("", KEY)
        assert (world.closed, len(world.table), world.o._keyed) == (world.opened, 0, {})

    run(body)


def test_a_key_keeps_nothing_of_an_open_that_failed() -> None:
    async def body(v: Verification, world: World) -> None:
        opened = [await world.o.open("hash") for _ in range(4)]
        for _ in range(2):
            with pytest.raises(CloudBusyError):
                await world.o.open("hash", KEY)
        await world.o.close("", KEY)
        await world.o.close(opened[0])
        await world.o.open("hash", KEY)  # a place is free: it is not told what it was told before
        await world.o.close(world.opened[-1])
        await world.engine.stop()
        with pytest.raises(CloudUnavailableError):
            await world.o.open("hash", KEY)
        assert world.o._keyed == {}

    run(body)


@pytest.mark.parametrize("key", ["0" * 31, "0" * 33, "0" * 100_000, "A" * 32, "\n" * 32])
def test_what_is_no_key_is_refused(key: str) -> None:
    async def body(v: Verification, world: World) -> None:
        for asked in (world.o.open("hash", key), world.o.close("", key)):
            with pytest.raises(CloudRejectedError, match="is not 32 lower-case hex characters") as caught:
                await asked
            assert len(str(caught.value)) < 200
        assert len(world.table) == 0

    run(body)


def test_another_tokenizer_under_the_same_key_is_refused() -> None:
    async def body(v: Verification, world: World) -> None:
        await world.o.open("hash", KEY)
        with pytest.raises(TokenizerMismatchError):
            await world.o.open("other", KEY)

    run(body)
