"""Chunks of hidden states: repeats, order, what is dropped and what is refused; over a fake middle, without a network."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cloud.admission import Admission, Limits
from cloud.engine.base import Check
from cloud.forward import MOST_CHUNKS, MOST_STREAMS, Answer, Forwarding, ForwardRequest
from cloud.generate import Generation
from cloud.identity import Client
from cloud.monitor import Monitor
from cloud.openings import Openings
from cloud.sessions import SessionTable
from cloud.verify import Verification, VerifyRequest
from runtime.errors import CloudBusyError, CloudError, CloudRejectedError, SessionLostError, SettingError
from runtime.wire.sizes import PRECISIONS, row_bytes
from runtime.wire.tensors import decoded, encoded
from tests.support.engine import HIDDEN, FakeForward, FakeMiddle, after_middle, fake_engine, fake_middle

LEASE = 60.0
LEAST_ROOM = 16 * 40 * row_bytes(HIDDEN, "fp32")
"""Of answers, as chunks have up to 40 rows."""
UNKNOWN = "0" * 32
STATES = torch.arange(100 * HIDDEN).reshape(100, HIDDEN).float() % 7


class World:
    """Chunks over a fake middle, whose leases run on `seconds`."""

    def __init__(self, limits: Limits, forward: FakeMiddle) -> None:
        self.forward, self.seconds = forward, 0.0
        self.engine = fake_middle(self.forward)
        self.table = SessionTable(self.engine.close, max_sessions=4, lease_seconds=LEASE, now=lambda: self.seconds)
        self.admission = Admission(limits, context_tokens=100, now=lambda: self.seconds)
        self.o = Openings(self.engine, self.table, "hash")
        self.monitor = Monitor()
        self.engine.watch(self.monitor.iterated)
        self.f = Forwarding(self.engine, self.table, self.admission, self.monitor)
        self.streams: list[Stream] = []

    async def entered(self) -> None:
        assert await asyncio.to_thread(self.forward.entered.wait, 30)

    def hold(self) -> None:
        self.forward.gate.clear()
        self.forward.entered.clear()


def run(body: Callable[[World], Awaitable[None]], limits: Limits | None = None, forward: FakeMiddle | None = None) -> None:
    async def live() -> None:
        world, unseen = World(limits or Limits(), forward or FakeMiddle()), []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: unseen.append(context))
        await world.engine.start()
        try:
            await body(world)
            for each in world.streams:
                await each.close()
            while world.admission.held:  # all is given back, whichever way it ended
                await asyncio.sleep(0)
            assert not world.f._streams
            await world.table.end()
            assert world.f.room.bytes == 0
            assert len(world.admission) == 0 or limits is not None
        finally:
            world.forward.gate.set()
            await world.engine.stop()
        world.engine.check_integrity()
        assert not unseen

    asyncio.run(asyncio.wait_for(live(), 60))


def asked(
    session_id: str, seq: int, prefix: int, rows: int | Tensor, returned: int | None = None, precision: str = "fp32"
) -> ForwardRequest:
    """A chunk of rows, by default those of STATES from there on; all results are wanted unless told otherwise."""
    states = STATES[prefix : prefix + rows] if isinstance(rows, int) else rows
    wanted = len(states) if returned is None else returned
    return ForwardRequest(session_id, seq, prefix, encoded(states, precision), PRECISIONS.index(precision), wanted)


def states(answer: Answer) -> Tensor:
    return decoded(answer.ran.states, HIDDEN, "fp32")


class Stream:
    """A stream of chunks, that the test sends and reads one by one."""

    def __init__(self, world: World, client: Client | None = None) -> None:
        self._queue: asyncio.Queue[ForwardRequest | None] = asyncio.Queue()
        self.taken = 0
        """Chunks that were read off it."""
        who = () if client is None else (client,)
        self.answers = world.f.forward(self._requests(), *who)
        world.streams.append(self)

    async def _requests(self) -> AsyncGenerator[ForwardRequest, None]:
        while (request := await self._queue.get()) is not None:
            self.taken += 1
            yield request

    def send(self, *requests: ForwardRequest | None) -> None:
        for each in requests:
            self._queue.put_nowait(each)

    async def ask(self, request: ForwardRequest) -> Answer:
        self.send(request)
        return await anext(self.answers)

    async def close(self) -> None:
        await self.answers.aclose()


async def ask(world: World, *requests: ForwardRequest, client: Client | None = None) -> list[Answer]:
    """Send chunks over a stream of their own, and read all answers."""
    stream = Stream(world, client)
    stream.send(*requests, None)
    async with aclosing(stream.answers) as answers:
        return [each async for each in answers]


def test_what_a_chunk_waits_for_those_before_it_is_part_of_its_queue() -> None:
    """Else a device would take it for the network's, and its link for slower than it is."""

    async def body(world: World) -> None:
        session_id = await world.o.open("hash")
        world.hold()
        stream = Stream(world)
        stream.send(asked(session_id, 1, 0, 4), asked(session_id, 2, 4, 4), None)
        waiting = asyncio.ensure_future(anext(stream.answers))
        await world.entered()
        while stream.taken < 2:
            await asyncio.sleep(0)
        await asyncio.sleep(0.2)
        world.forward.gate.set()
        first, second = await waiting, await anext(stream.answers)
        assert first.ran.queue_ms < second.ran.queue_ms
        assert second.ran.queue_ms >= 190

    run(body)


def test_the_chunks_of_a_session_are_answered_in_their_order_with_what_forwards_take() -> None:
    async def body(world: World) -> None:
        session_id = await world.o.open("hash")
        answers = await ask(world, asked(session_id, 1, 0, 20, 0), asked(session_id, 2, 20, 9, 2), asked(session_id, 3, 29, 1))
        assert [each.seq for each in answers] == [1, 2, 3]
        wanted = after_middle(STATES[:30])
        assert answers[0].ran.states == b""
        assert torch.equal(states(answers[1]), wanted[27:29])
        assert torch.equal(states(answers[2]), wanted[29:])
        assert [each.ran.processed_tokens for each in answers] == [20, 9, 1]
        assert answers[-1].estimate.milliseconds(1) > 0
        assert (await world.o.close(session_id)).processed_tokens == 30

    run(body)


def test_repeats_of_the_last_chunks_get_the_same_answers_also_over_another_stream() -> None:
    async def body(world: World) -> None:
        session_id = await world.o.open("hash")
        chunks = [asked(session_id, seq, seq - 1, 1) for seq in range(1, 12)]
        first = await ask(world, *chunks)
        ran = len(world.forward.batches)
        again = await ask(world, *chunks[-MOST_CHUNKS:])
        assert [each.ran for each in again] == [each.ran for each in first[-MOST_CHUNKS:]]
        assert len(world.forward.batches) == ran
        with pytest.raises(CloudRejectedError, match=r"seq=3 is out of order; this session takes 4\.\.11 \(repeated\) or 12"):
            await ask(world, chunks[2])
        other = asked(session_id, 9, 8, STATES[:1] + 1)
        with pytest.raises(CloudRejectedError, match=r"seq=9 was asked before, with other content.*next is seq=12"):
            await ask(world, other)
        assert torch.equal(states((await ask(world, asked(session_id, 12, 11, 1)))[0]), after_middle(STATES[:12])[11:])

    run(body)


@pytest.mark.parametrize(
    "other", [{"prefix": 1}, {"rows": 3}, {"returned": 1}, {"precision": "bf16"}], ids=lambda other: next(iter(other))
)
def test_whatever_is_different_makes_it_another_chunk(other: dict[str, object]) -> None:
    async def body(world: World) -> None:
        session_id = await world.o.open("hash")
        same = {"prefix": 2, "rows": 2, "returned": 2}
        await ask(world, asked(session_id, 1, 0, 2), asked(session_id, 2, **same))  # type: ignore[arg-type]
        with pytest.raises(CloudRejectedError, match="seq=2 was asked before, with other content"):
            await ask(world, asked(session_id, 2, **same | other))  # type: ignore[arg-type]

    run(body)


@pytest.mark.parametrize("seq", [0, 2, 5])
def test_a_gap_is_rejected(seq: int) -> None:
    async def body(world: World) -> None:
        session_id = await world.o.open("hash")
        with pytest.raises(CloudRejectedError, match=f"seq={seq} is out of order; this session takes 0 .* or 1"):
            await ask(world, asked(session_id, seq, 0, 3))
        assert len(await ask(world, asked(session_id, 1, 0, 3))) == 1

    run(body)


def test_chunks_are_sent_ahead_and_no_more_than_eight_are_read() -> None:
    async def body(world: World) -> None:
        session_id, stream = await world.o.open("hash"), Stream(world)
        world.hold()
        stream.send(*(asked(session_id, seq, seq - 1, 1) for seq in range(1, 21)), None)
        first = asyncio.create_task(anext(stream.answers))
        await world.entered()
        for _ in range(50):
            await asyncio.sleep(0)
        assert stream.taken == MOST_CHUNKS
        world.forward.gate.set()
        answers = [await first, *[each async for each in stream.answers]]
        assert [each.seq for each in answers] == list(range(1, 21))
        assert torch.equal(torch.cat([states(each) for each in answers]), after_middle(STATES[:20]))

    run(body)


def test_more_than_eight_of_a_session_at_a_time_are_too_many_whatever_streams_they_come_by() -> None:
    async def body(world: World) -> None:
        session_id, one = await world.o.open("hash"), Stream(world)
        world.hold()
        chunks = [asked(session_id, seq, seq - 1, 1) for seq in range(1, 10)]
        one.send(*chunks[:MOST_CHUNKS])
        first = asyncio.create_task(anext(one.answers))
        await world.entered()
        while one.taken < MOST_CHUNKS:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        with pytest.raises(CloudBusyError, match="seq=1 of this session still runs; send seq=9 after its answer"):
            await ask(world, chunks[8])
        world.forward.gate.set()
        assert [(await first).seq, *[(await anext(one.answers)).seq for _ in range(7)]] == list(range(1, 9))
        await one.close()
        assert (await ask(world, chunks[8]))[0].seq == 9

    run(body)


def test_who_leaves_drops_what_nobody_else_waits_for_and_it_runs_again_when_asked_for_again() -> None:
    async def body(world: World) -> None:
        session_id, stream = await world.o.open("hash"), Stream(world)
        await ask(world, asked(session_id, 1, 0, 10))
        chunks = [asked(session_id, seq, 8 + seq, 1) for seq in range(2, 6)]
        world.hold()
        stream.send(*chunks)
        reading = asyncio.create_task(anext(stream.answers))
        await world.entered()
        for _ in range(20):
            await asyncio.sleep(0)
        assert world.admission.held.requests == 4
        reading.cancel()
        await asyncio.wait([reading])
        await stream.close()
        while world.admission.held:
            await asyncio.sleep(0)
        world.forward.gate.set()
        with pytest.raises(SessionLostError, match="holds 10 positions, not the 11 that the chunk builds on"):
            await ask(world, chunks[1])  # which is behind one that nobody has asked for again
        assert torch.equal(torch.cat([states(each) for each in await ask(world, *chunks)]), after_middle(STATES[:14])[10:])

    run(body)


def test_what_was_given_up_need_not_be_asked_for_again_by_who_does_not_build_on_it() -> None:
    async def body(world: World) -> None:
        session_id, stream = await world.o.open("hash"), Stream(world)
        await ask(world, asked(session_id, 1, 0, 20))
        world.hold()
        given_up = asked(session_id, 2, 12, STATES[:5] + 3)
        stream.send(given_up)
        reading = asyncio.create_task(anext(stream.answers))
        await world.entered()
        reading.cancel()
        await asyncio.wait([reading])
        await stream.close()
        world.forward.gate.set()
        with pytest.raises(SessionLostError, match="holds 12 positions, not the 17"):
            await ask(world, asked(session_id, 3, 17, 1))
        [answer] = await ask(world, asked(session_id, 3, 12, 4))
        assert torch.equal(states(answer), after_middle(STATES[:16])[12:])
        with pytest.raises(
            CloudRejectedError, match="seq=2 was given up, and the session has gone on since; the next is seq=4"
        ):
            await ask(world, given_up)

    run(body)


def test_a_chunk_that_another_stream_waits_for_keeps_those_before_it() -> None:
    async def body(world: World) -> None:
        session_id, one, two = await world.o.open("hash"), Stream(world), Stream(world)
        chunks = [asked(session_id, seq, seq - 1, 1) for seq in range(1, 4)]
        world.hold()
        one.send(*chunks)
        left = asyncio.create_task(anext(one.answers))
        await world.entered()
        for _ in range(20):
            await asyncio.sleep(0)
        two.send(chunks[1])
        stays = asyncio.create_task(anext(two.answers))
        for _ in range(20):
            await asyncio.sleep(0)
        left.cancel()
        await asyncio.wait([left])
        await one.close()
        world.forward.gate.set()
        assert torch.equal(states(await stays), after_middle(STATES[:2])[1:])
        assert torch.equal(states(await two.ask(chunks[0])), after_middle(STATES[:1]))
        assert torch.equal(states(await two.ask(chunks[2])), after_middle(STATES[:3])[2:])
        assert world.forward.batches == [[1], [1], [1]]
        await two.close()

    run(body)


def test_two_streams_of_a_session_get_the_same_answers_and_the_work_is_done_once() -> None:
    async def body(world: World) -> None:
        session_id = await world.o.open("hash")
        chunks = [asked(session_id, seq, 3 * seq - 3, 3) for seq in range(1, 8)]
        one, two = await asyncio.gather(ask(world, *chunks), ask(world, *chunks))
        assert [each.ran for each in one] == [each.ran for each in two]
        assert world.forward.batches == [[3]] * 7

    run(body)


def test_a_chunk_that_fails_ends_the_stream_and_takes_along_what_is_behind_it() -> None:
    async def body(world: World) -> None:
        session_id, stream = await world.o.open("hash"), Stream(world)
        await ask(world, asked(session_id, 1, 0, 10))
        world.hold()
        chunks = [asked(session_id, seq, 8 + seq, 1) for seq in range(2, 6)]
        stream.send(*chunks)
        reading = asyncio.create_task(anext(stream.answers))
        await world.entered()
        for _ in range(20):
            await asyncio.sleep(0)
        world.forward.failures.append(RuntimeError("out of memory"))
        world.forward.gate.set()
        with pytest.raises(CloudError, match="out of memory"):
            await reading
        await stream.close()
        with pytest.raises(CloudError, match="out of memory"):
            await ask(world, chunks[0])  # a repeat gets the same
        [answer] = await ask(world, asked(session_id, 3, 10, 5))  # of other content than what was behind
        assert torch.equal(states(answer), after_middle(STATES[:15])[10:])

    run(body)


def test_the_answers_before_a_wrong_chunk_are_given_and_the_next_number_is_next() -> None:
    async def body(world: World) -> None:
        session_id, stream = await world.o.open("hash"), Stream(world)
        stream.send(asked(session_id, 1, 0, 3), asked(session_id, 2, 3, 41), asked(session_id, 3, 3, 1))
        assert (await anext(stream.answers)).seq == 1
        with pytest.raises(CloudRejectedError, match=r"a chunk of 41 rows must have 1\.\.40"):
            await anext(stream.answers)
        assert (await ask(world, asked(session_id, 3, 3, 1)))[0].seq == 3

    run(body)


def row(precision: str) -> int:
    return row_bytes(HIDDEN, precision)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ForwardRequest("", 1, 0, b"", 0, 0), r"a chunk of 0 rows must have 1\.\.40; cut a longer one"),
        (ForwardRequest("", 1, 0, bytes(41 * row("bf16")), 1, 0), r"a chunk of 41 rows must have 1\.\.40"),
        (
            ForwardRequest("", 1, 0, bytes(row("fp32") + 1), 0, 0),
            r"17 bytes of states are no whole rows of 16 \(4 numbers in fp32\)",
        ),
        (ForwardRequest("", 1, 0, bytes(20), 2, 0), r"20 bytes of states are no whole rows of 8 \(4 numbers in int8\)"),
        (ForwardRequest("", 1, 0, bytes(16), 3, 0), r"precision=3 is none; send one of 0\.\.2"),
        (ForwardRequest("", 1, 0, bytes(16), -1, 0), r"precision=-1 is none"),
        (ForwardRequest("", 1, 0, bytes(32), 0, 3), "returned=3 is more than the 2 rows of the chunk"),
        (ForwardRequest("", 1, 99, bytes(32), 0, 0), "2 positions after 99 exceed the LLM's context of 100"),
        (ForwardRequest("", 1, 2**32 - 1, bytes(16), 0, 0), "1 positions after 4294967295 exceed"),
        (asked("", 1, 0, STATES[:3] / 0), "the states cannot be read: a hidden state has a number that is not finite"),
    ],
)
def test_a_wrong_chunk_is_rejected_with_value_and_way_out_and_harms_nothing(request_: ForwardRequest, message: str) -> None:
    async def body(world: World) -> None:
        session_id = await world.o.open("hash")
        wrong = ForwardRequest(session_id, *[getattr(request_, each) for each in request_.__slots__[1:]])
        for _ in range(2):
            with pytest.raises(CloudRejectedError, match=message):
                await ask(world, wrong)
        assert torch.equal(states((await ask(world, asked(session_id, 2, 0, 3)))[0]), after_middle(STATES[:3]))

    run(body)


def test_a_stream_is_of_one_session() -> None:
    async def body(world: World) -> None:
        one, two = [await world.o.open("hash") for _ in range(2)]
        stream = Stream(world)
        await stream.ask(asked(one, 1, 0, 3))
        with pytest.raises(CloudRejectedError, match="a stream carries the chunks of one session"):
            await stream.ask(asked(two, 1, 0, 3))

    run(body)


def test_a_session_that_is_not_here_or_anothers_is_lost() -> None:
    async def body(world: World) -> None:
        with pytest.raises(SessionLostError, match=f"no session '{UNKNOWN}'"):
            await ask(world, asked(UNKNOWN, 1, 0, 3))
        with pytest.raises(CloudRejectedError, match="session_id='x' is not 32"):
            await ask(world, asked("x", 1, 0, 3))
        mine = await world.o.open("hash", client=Client("me", "me"))
        with pytest.raises(SessionLostError):
            await ask(world, asked(mine, 1, 0, 3), client=Client("you", "you"))
        with pytest.raises(SessionLostError, match="holds 0 positions, not the 3"):
            await ask(world, asked(mine, 1, 3, 3), client=Client("me", "me"))
        assert len(await ask(world, asked(mine, 1, 0, 3), client=Client("me", "me"))) == 1

    run(body)


def test_a_session_that_yielded_its_keys_and_values_is_lost_and_healed_by_a_new_one() -> None:
    async def body(world: World) -> None:
        one, two = [await world.o.open("hash") for _ in range(2)]
        for each in (one, two):
            await ask(world, asked(each, 1, 0, 40))
        with pytest.raises(SessionLostError, match="had to yield its keys and values"):
            await ask(world, asked(one, 2, 40, 1))
        await world.o.close(one)
        new = await world.o.open("hash")
        answers = await ask(world, asked(new, 1, 0, 40), asked(new, 2, 40, 1))
        assert torch.equal(states(answers[1]), after_middle(STATES[:41])[40:])

    run(body, forward=FakeMiddle(blocks=4))


def test_a_lease_is_renewed_by_chunks_and_ends_without() -> None:
    async def body(world: World) -> None:
        session_id = await world.o.open("hash")
        for seq in range(1, 4):
            world.seconds += LEASE * 0.9
            await ask(world, asked(session_id, seq, seq - 1, 1))
        world.seconds += LEASE
        with pytest.raises(SessionLostError):
            await ask(world, asked(session_id, 4, 3, 1))

    run(body)


def test_a_session_that_is_closed_meanwhile_ends_its_streams() -> None:
    async def body(world: World) -> None:
        session_id, stream = await world.o.open("hash"), Stream(world)
        world.hold()
        stream.send(*(asked(session_id, seq, seq - 1, 1) for seq in range(1, 5)))
        reading = asyncio.create_task(anext(stream.answers))
        await world.entered()
        for _ in range(20):
            await asyncio.sleep(0)
        await world.o.close(session_id)
        with pytest.raises(SessionLostError):
            await reading

    run(body)


def test_what_is_too_much_at_a_time_is_told_when_to_come_back_and_can_be_sent_again() -> None:
    async def body(world: World) -> None:
        session_id, stream = await world.o.open("hash"), Stream(world)
        world.hold()
        chunks = [asked(session_id, seq, 20 * seq - 20, 20, 1) for seq in range(1, 4)]
        stream.send(*chunks)
        reading = asyncio.create_task(anext(stream.answers))
        await world.entered()
        for _ in range(20):
            await asyncio.sleep(0)
        world.forward.gate.set()
        assert (await reading).seq == 1
        assert (await anext(stream.answers)).seq == 2  # half of what there is
        with pytest.raises(CloudBusyError, match="this account has 2 requests in flight, of at most 2") as busy:
            await anext(stream.answers)
        assert busy.value.retry_after_seconds is not None
        assert torch.equal(states((await ask(world, chunks[2]))[0]), after_middle(STATES[:60])[59:])

    run(body, Limits(account_requests=2))


def test_tokens_of_chunks_are_charged_to_the_account() -> None:
    async def body(world: World) -> None:
        session_id = await world.o.open("hash")
        await ask(world, asked(session_id, 1, 0, 30))
        with pytest.raises(CloudBusyError, match="used up its 1 tokens per second"):
            await ask(world, asked(session_id, 2, 30, 1))
        world.seconds += 25
        assert len(await ask(world, asked(session_id, 2, 30, 1))) == 1

    run(body, Limits(account_tokens_per_second=1.0, account_burst_tokens=10))


def test_a_middle_and_a_whole_model_refuse_what_is_the_others() -> None:
    async def body(world: World) -> None:
        session_id = await world.o.open("hash")
        said = "serves the middle of a split model, all but its first 1 and last 0 layers; ask it for Forward"
        verification = Verification(world.engine, world.table, world.admission, max_draft_tokens=4)
        with pytest.raises(CloudRejectedError, match=said):
            await verification.verify(VerifyRequest(session_id, 1, Check(0, [1], [])))
        with pytest.raises(CloudRejectedError, match=said):
            await anext(Generation(world.engine, world.admission).generate([1], 3))
        whole = Forwarding(fake_engine(FakeForward()), world.table, world.admission, Monitor())
        with pytest.raises(CloudRejectedError, match="serves a whole model, which checks drafts of tokens; ask it for Verify"):
            await anext(whole.forward(Stream(world)._requests()))

    run(body)


# ---------------------------------------------------------------- how much is kept


async def filled(world: World, session_id: str, chunks: int) -> list[ForwardRequest]:
    """Ask for so many of the longest answers."""
    asks = [asked(session_id, seq, 0, 40) for seq in range(1, chunks + 1)]
    await ask(world, *asks)
    return asks


def test_answers_make_way_for_others_and_who_repeats_such_a_chunk_has_lost_its_session() -> None:
    async def body(world: World) -> None:
        ids = [await world.o.open("hash") for _ in range(3)]
        first, second = [await filled(world, each, 8) for each in ids[:2]]
        assert world.f.room.bytes == LEAST_ROOM
        await filled(world, ids[2], 3)
        assert world.f.room.bytes == LEAST_ROOM
        ran = len(world.forward.batches)
        assert [each.seq for each in await ask(world, *first[3:])] == [4, 5, 6, 7, 8]  # the longest unused had to go
        assert [each.seq for each in await ask(world, *second)] == list(range(1, 9))
        assert len(world.forward.batches) == ran
        for each in first[:3]:
            with pytest.raises(SessionLostError, match=f"the answer to seq={each.seq} had to make way.*--max-answer-bytes"):
                await ask(world, each)
        with pytest.raises(CloudRejectedError, match="seq=2 was asked before, with other content"):
            await ask(world, asked(ids[0], 2, 0, 39))
        assert (await ask(world, asked(ids[0], 9, 40, 1)))[0].seq == 9  # who repeats nothing notices nothing
        await world.o.close(ids[0])
        new = await world.o.open("hash")
        assert torch.equal(states((await ask(world, asked(new, 1, 0, 40)))[0]), after_middle(STATES[:40]))

    run(body, Limits(max_answer_bytes=LEAST_ROOM))


def test_chunks_that_ask_for_no_states_take_no_room() -> None:
    async def body(world: World) -> None:
        session_id = await world.o.open("hash")
        await ask(world, *(asked(session_id, seq, 0, 40, 0) for seq in range(1, 9)))
        assert world.f.room.bytes == 0
        await ask(world, asked(session_id, 9, 40, 40, 3, "bf16"))
        assert world.f.room.bytes == 3 * row_bytes(HIDDEN, "bf16")

    run(body)


def test_answers_that_are_not_read_are_not_forgotten_and_too_many_of_them_are_refused_with_when_to_come_back() -> None:
    async def body(world: World) -> None:
        ids = [await world.o.open("hash") for _ in range(3)]
        unread = Stream(world)
        unread.send(*(asked(ids[0], seq, 0, 40) for seq in range(1, 9)), None)
        first = await anext(unread.answers)
        while world.admission.held:
            await asyncio.sleep(0)
        with pytest.raises(CloudBusyError, match="bytes of answers are made or wait to be read") as busy:
            await filled(world, ids[1], 1)
        assert busy.value.retry_after_seconds is not None
        assert [first.seq, *[each.seq async for each in unread.answers]] == list(range(1, 9))
        await filled(world, ids[1], 1)  # by the same number

    run(body, Limits(max_answer_bytes=LEAST_ROOM))


def test_room_that_a_sessions_eight_answers_might_not_fit_into_is_refused() -> None:
    with pytest.raises(SettingError, match=f"max_answer_bytes={LEAST_ROOM - 1} is less than sixteen answers of 640 bytes"):
        World(Limits(max_answer_bytes=LEAST_ROOM - 1), FakeMiddle())
    assert Limits().answer_bytes(640) == 2**28
    assert Limits().answer_bytes(2**27) == 2**31


# ---------------------------------------------------------------- streams


def test_a_session_has_only_so_many_streams() -> None:
    async def body(world: World) -> None:
        session_id = await world.o.open("hash")
        chunk = asked(session_id, 1, 0, 3)
        streams = [Stream(world) for _ in range(MOST_STREAMS)]
        for each in streams:
            assert (await each.ask(chunk)).seq == 1
        with pytest.raises(CloudBusyError, match="this session has 8 streams, which is the most"):
            await ask(world, chunk)
        await streams[0].close()
        assert (await ask(world, asked(session_id, 2, 3, 3)))[0].seq == 2
        for each in streams[1:]:
            await each.close()

    run(body)


def test_streams_that_ask_for_nothing_are_counted_and_end_after_a_while() -> None:
    async def body(world: World) -> None:
        session_id = await world.o.open("hash")
        silent = [asyncio.create_task(anext(Stream(world).answers)) for _ in range(2)]
        while world.admission.held.streams < 2:
            await asyncio.sleep(0)
        with pytest.raises(CloudBusyError, match="2 streams in flight, of at most 2"):
            await ask(world, asked(session_id, 1, 0, 3))
        for each in silent:
            with pytest.raises(CloudBusyError, match=r"no chunk came over this stream for 0\.2 s"):
                await each
        stream, world.table.lease_seconds = Stream(world), 0.2
        await stream.ask(asked(session_id, 1, 0, 3))
        assert not world.admission.held.streams  # it is its session's now
        with pytest.raises(CloudBusyError, match="no chunk came"):
            await anext(stream.answers)
        assert (await ask(world, asked(session_id, 2, 3, 3)))[0].seq == 2  # which others go on with

    run(body, Limits(account_streams=2, reader_seconds=0.2))


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.sampled_from(["next", "repeat", "leave", "rollback"]), st.integers(1, 12), st.floats(0, 1)),
        min_size=1,
        max_size=20,
    )
)
def test_whatever_is_repeated_left_and_rolled_back_answers_are_those_of_one_who_never_left(
    moves: list[tuple[str, int, float]],
) -> None:
    async def body(world: World) -> None:
        session_id, held, seq = await world.o.open("hash"), STATES[:0], 0
        answered: list[tuple[ForwardRequest, Tensor]] = []
        for number, (move, rows, share) in enumerate(moves):
            if move == "repeat" and answered:
                again, wanted = answered[-1 - int(share * (min(len(answered), MOST_CHUNKS) - 1))]
                assert torch.equal(states((await ask(world, again))[0]), wanted)
                continue
            prefix = round(share * len(held)) if move == "rollback" else len(held)
            if prefix + rows > 100:
                continue
            new, seq = (STATES[prefix : prefix + rows] + number) % 7, seq + 1
            request = asked(session_id, seq, prefix, new)
            if move == "leave":
                world.hold()
                stream = Stream(world)
                stream.send(request)
                reading = asyncio.create_task(anext(stream.answers))
                await world.entered()
                reading.cancel()
                await asyncio.wait([reading])
                await stream.close()
                world.forward.gate.set()
            held = torch.cat([held[:prefix], new])
            wanted = after_middle(held)[prefix:]
            assert torch.equal(states((await ask(world, request))[0]), wanted)
            answered.append((request, wanted))

    run(body)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.sampled_from(["next", "next", "repeat", "leave"]), st.integers(20, 40), st.floats(0, 1)
        ),
        min_size=1,
        max_size=30,
    )
)
def test_whatever_is_forgotten_an_answer_is_right_or_its_session_is_lost_and_the_room_is_never_more(
    moves: list[tuple[int, str, int, float]],
) -> None:
    """Three devices, and room for sixteen answers; who has lost its session opens another and sends all of it again."""

    async def body(world: World) -> None:
        ids = [await world.o.open("hash") for _ in range(3)]
        answered: list[list[tuple[ForwardRequest, Tensor]]] = [[], [], []]
        for device, move, rows, share in moves:
            known = answered[device]
            if move == "repeat" and known:
                again, wanted = known[-1 - int(share * (min(len(known), MOST_CHUNKS) - 1))]
                try:
                    assert torch.equal(states((await ask(world, again))[0]), wanted)
                except SessionLostError:
                    await world.o.close(ids[device])
                    ids[device], again = await world.o.open("hash"), known[-1][0]
                    known.clear()
                    whole = replace(again, session_id=ids[device], seq=1)
                    [answer] = await ask(world, whole)
                    known.append((whole, states(answer)))
                continue
            request = asked(ids[device], len(known) + 1, 0, (STATES[:rows] + len(known)) % 7)
            if move == "leave":
                world.hold()
                stream = Stream(world)
                stream.send(request)
                reading = asyncio.create_task(anext(stream.answers))
                await world.entered()
                reading.cancel()
                await asyncio.wait([reading])
                await stream.close()
                world.forward.gate.set()
            [answer] = await ask(world, request)
            assert torch.equal(states(answer), after_middle((STATES[:rows] + len(known)) % 7))
            known.append((request, states(answer)))
            assert world.f.room.bytes <= LEAST_ROOM

    run(body, Limits(max_answer_bytes=LEAST_ROOM))
