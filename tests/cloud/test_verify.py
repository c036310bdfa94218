from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.engine.embedded.batcher import Batcher
from cloud.sessions import SessionTable
from cloud.verify import Verification, Verified, VerifyRequest
from runtime.errors import CloudBusyError, CloudError, CloudRejectedError, SessionLostError, TokenizerMismatchError
from tests.support.engine import VOCAB, FakeEngine, choice, continuation

PROMPT = [1, 2, 3]


@asynccontextmanager
async def verification(engine: FakeEngine, max_sessions: int = 4) -> AsyncIterator[tuple[Verification, SessionTable]]:
    table = SessionTable(engine.new_cache, max_sessions=max_sessions, lease_seconds=60, now=lambda: 0.0)
    batcher = Batcher(engine)
    batcher.start()
    try:
        yield Verification(engine.info, "hash", table, batcher, max_draft_tokens=4), table
    finally:
        engine.gate.set()
        await asyncio.to_thread(batcher.stop)


def run(body: Callable[[Verification, SessionTable, FakeEngine], Awaitable[None]], **engine_options: object) -> None:
    async def live() -> None:
        engine = FakeEngine(**engine_options)  # type: ignore[arg-type]
        async with verification(engine) as (v, table):
            await body(v, table, engine)

    asyncio.run(live())


def request(session_id: str, seq: int, prefix: int, context: Sequence[int], draft: Sequence[int] = ()) -> VerifyRequest:
    return VerifyRequest(session_id, seq, prefix, context, draft)


TOKEN = st.integers(0, VOCAB - 1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.lists(TOKEN, max_size=5), st.integers(0, 4), TOKEN), min_size=1, max_size=8))
def test_any_walk_gets_the_llms_own_choices(steps: list[tuple[float, list[int], int, int]]) -> None:
    """The device keeps any part of the history, adds any context, drafts right up to any place."""

    async def body(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        session_id, history = v.open("hash"), []
        for seq, (kept, context, right, wrong) in enumerate(steps, 1):
            prefix = round(kept * len(history))
            base = [*history[:prefix], *(context if prefix or context else [5])]
            draft = [*continuation(base, right), wrong][:4]
            got = await v.verify(request(session_id, seq, prefix, base[prefix:], draft))
            stands = next((i for i, token in enumerate(draft) if token != choice([*base, *draft[:i]])), len(draft))
            assert (got.accepted, got.next_token) == (stands, choice([*base, *draft[:stands]]))
            history = [*base, *draft[:stands], got.next_token]
            session = table.get(session_id)
            assert session.history == history
            assert session.cache.tokens == history[:-1]  # type: ignore[attr-defined]

    run(body)


def test_only_what_is_new_is_processed() -> None:
    async def body(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        session_id = v.open("hash")
        first = await v.verify(request(session_id, 1, 0, PROMPT, [0]))
        held = len(PROMPT) + first.accepted + 1
        second = await v.verify(request(session_id, 2, held, [], [0, 0]))
        assert (first.processed_tokens, second.processed_tokens) == (4, 3)
        assert engine.batches == [[4], [3]]
        assert first.load == 1

    run(body)


def test_a_repeat_gets_the_stored_response_also_while_it_runs() -> None:
    async def body(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        session_id = v.open("hash")
        engine.gate.clear()
        asked = request(session_id, 1, 0, PROMPT, continuation(PROMPT, 2))
        first = asyncio.create_task(v.verify(asked))
        await asyncio.to_thread(engine.entered.wait, 30)
        repeat = asyncio.create_task(v.verify(asked))
        await asyncio.sleep(0)
        first.cancel()  # the first caller goes away; its work is not lost
        engine.gate.set()
        got: Verified = await repeat
        assert got.accepted == 2
        assert await v.verify(asked) == got
        assert engine.batches == [[5]]

    run(body)


@pytest.mark.parametrize("seq", [0, 1, 4])
def test_an_older_or_skipped_seq_is_an_error(seq: int) -> None:
    async def body(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        session_id = v.open("hash")
        await v.verify(request(session_id, 1, 0, PROMPT))
        await v.verify(request(session_id, 2, 4, []))
        with pytest.raises(CloudRejectedError, match=rf"seq={seq} is out of order; this session takes 2 .* or 3"):
            await v.verify(request(session_id, seq, 5, []))

    run(body)


def test_the_next_check_waits_for_the_one_before() -> None:
    async def body(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        session_id = v.open("hash")
        engine.gate.clear()
        tasks = [asyncio.create_task(v.verify(request(session_id, 1, 0, PROMPT)))]
        await asyncio.to_thread(engine.entered.wait, 30)
        tasks.append(asyncio.create_task(v.verify(request(session_id, 2, 4, []))))
        await asyncio.sleep(0)
        engine.gate.set()
        assert [t.next_token for t in await asyncio.gather(*tasks)] == continuation(PROMPT, 2)

    run(body)


def test_a_history_that_is_not_here_is_a_lost_session() -> None:
    async def body(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        with pytest.raises(SessionLostError, match="no session 'unknown'"):
            await v.verify(request("unknown", 1, 0, PROMPT))
        with pytest.raises(SessionLostError, match="holds 0 tokens, not the 3"):
            await v.verify(request(v.open("hash"), 1, 3, [1]))

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
    async def body(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        session_id = v.open("hash")
        with pytest.raises(CloudRejectedError, match=message):
            await v.verify(request(session_id, 1, 0, context, draft))
        got = await v.verify(request(session_id, 2, 0, PROMPT))
        assert got.next_token == choice(PROMPT)

    run(body)


def test_the_context_can_be_used_to_its_end() -> None:
    async def body(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        prompt = [1] * 98
        got = await v.verify(request(v.open("hash"), 1, 0, prompt, continuation(prompt, 2)))
        assert got.accepted == 2

    run(body)


def test_an_engine_failure_is_told_and_the_session_lives_on() -> None:
    async def body(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        session_id = v.open("hash")
        await v.verify(request(session_id, 1, 0, PROMPT))
        engine.failures = 1
        with pytest.raises(CloudError, match="out of memory"):
            await v.verify(request(session_id, 2, 4, [], [0]))
        got = await v.verify(request(session_id, 3, 4, []))
        assert got.next_token == continuation(PROMPT, 2)[1]

    run(body)


def test_another_tokenizer_is_refused_naming_both() -> None:
    async def body(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        with pytest.raises(TokenizerMismatchError, match=r"'other'.*'hash'"):
            v.open("other")

    run(body)


async def _all(v: Verification, prompt: list[int], count: int) -> list[int]:
    return [each.choices[0] async for each in v.generate(prompt, count)]


def test_generate_is_greedy_and_ends_at_count_context_and_eos() -> None:
    async def body(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        assert await _all(v, PROMPT, 12) == continuation(PROMPT, 12)
        assert await _all(v, [1] * 95, 12) == continuation([1] * 95, 5)
        assert len(table) == 0

    async def ends(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        assert await _all(v, PROMPT, 12) == continuation(PROMPT, 3)

    run(body)
    run(ends, eos_ids=(continuation(PROMPT, 3)[-1],))


@pytest.mark.parametrize(("prompt", "count"), [([], 3), (PROMPT, 0), ([1] * 100, 3), ([VOCAB], 3)])
def test_generate_rejects_what_it_cannot_do(prompt: list[int], count: int) -> None:
    async def body(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        with pytest.raises(CloudRejectedError):
            await _all(v, prompt, count)
        assert len(table) == 0

    run(body)


def test_a_closed_stream_stops_and_frees_its_session() -> None:
    async def body(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        stream = v.generate(PROMPT, 90)
        assert (await anext(stream)).choices[0] == choice(PROMPT)
        assert len(table) == 1
        await stream.aclose()  # type: ignore[attr-defined]
        assert len(table) == 0
        await v.verify(request(v.open("hash"), 1, 0, [9] * 7))  # behind it in the queue
        ran = len(engine.batches)
        await v.verify(request(v.open("hash"), 1, 0, [9] * 7))
        assert engine.batches[ran:] == [[7]]

    run(body)


def test_a_stream_whose_engine_fails_says_so() -> None:
    async def body(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        engine.failures = 1
        with pytest.raises(CloudError, match="out of memory"):
            await _all(v, PROMPT, 3)
        assert len(table) == 0

    run(body)


def test_streams_and_sessions_share_the_limit() -> None:
    async def body(v: Verification, table: SessionTable, engine: FakeEngine) -> None:
        for _ in range(4):
            v.open("hash")
        with pytest.raises(CloudBusyError):
            await _all(v, PROMPT, 3)

    run(body)
