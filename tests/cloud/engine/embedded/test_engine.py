from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.engine.base import Check
from cloud.engine.embedded.engine import EmbeddedEngine
from runtime.errors import CloudError, CloudUnavailableError, SessionLostError
from tests.support.embedded import entered, failure, held_back, run, tokens, used_blocks
from tests.support.engine import VOCAB, FakeForward, choice, continuation, fake_engine

PROMPT = [1, 2, 3]
TOKEN = st.integers(0, VOCAB - 1)
STEP = st.tuples(
    st.floats(0, 1),
    st.lists(TOKEN, max_size=5),
    st.integers(0, 4),
    TOKEN,
    st.sampled_from(["goes well", "fails", "is cancelled"]),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(STEP, min_size=1, max_size=8))
def test_any_walk_gets_the_llms_own_choices(steps: list[tuple[float, list[int], int, int, str]]) -> None:
    """The device keeps any part of the history, adds any context, drafts right up to any place; checks may be lost."""

    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        await engine.open("a")
        history: list[int] = []
        for kept, context, right, wrong, fate in steps:
            prefix = round(kept * len(history))
            base = [*history[:prefix], *(context if prefix or context else [5])]
            draft = [*continuation(base, right), wrong][:4]
            check = Check(prefix, base[prefix:], draft)
            if fate != "goes well":
                await lose(engine, forward, check, fate)
                continue
            got = await engine.check("a", check)
            stands = next((i for i, token in enumerate(draft) if token != choice([*base, *draft[:i]])), len(draft))
            assert (got.accepted, got.next_token) == (stands, choice([*base, *draft[:stands]]))
            history = [*base, *draft[:stands], got.next_token]
            with pytest.raises(SessionLostError, match=f"holds {len(history)} tokens, not the {len(history) + 1}"):
                await engine.check("a", Check(len(history) + 1, [], []))

    run(body)


async def lose(engine: EmbeddedEngine, forward: FakeForward, check: Check, fate: str) -> None:
    """Have a check fail in its forward, or cancel it while its forward runs."""
    if fate == "fails":
        await engine.open("b")
        await engine.check("b", Check(0, [1], []))  # behind a cancelled check that may still be in hand
        await engine.close("b")
        forward.failures.append(RuntimeError("out of memory"))
        with pytest.raises(CloudError, match="out of memory"):
            await engine.check("a", check)
        return
    forward.gate.clear()
    forward.entered.clear()
    task = asyncio.create_task(engine.check("a", check))
    await entered(forward)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    forward.gate.set()  # the forward may end only after the next check has begun


def test_only_what_is_new_is_processed() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        await engine.open("a")
        first = await engine.check("a", Check(0, PROMPT, [0]))
        held = len(PROMPT) + first.accepted + 1
        second = await engine.check("a", Check(held, [], [0, 0]))
        assert (first.processed_tokens, second.processed_tokens) == (4, 3)
        assert forward.batches == [[4], [3]]
        assert first.load == 1

    run(body)


def test_sessions_and_streams_share_forwards() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        held = await held_back(engine, forward)
        for name in ("a", "b"):
            await engine.open(name)
        asked = [asyncio.create_task(engine.check(name, Check(0, PROMPT, []))) for name in ("a", "b")]
        stream = asyncio.create_task(tokens(engine, [4, 5], 2))
        await asyncio.sleep(0)
        forward.gate.set()
        assert [got.next_token for got in await asyncio.gather(*asked)] == [choice(PROMPT)] * 2
        assert await stream == continuation([4, 5], 2)
        assert forward.batches == [[1], [3, 3, 2], [1]]
        assert [got.load for got in (await held, asked[0].result())] == [4, 3]

    run(body)


def test_what_is_not_held_is_a_lost_session() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        with pytest.raises(SessionLostError, match=r"no session 'unknown'.*open a new one and send the whole history"):
            await engine.check("unknown", Check(0, PROMPT, []))
        await engine.open("a")
        with pytest.raises(SessionLostError, match=r"session 'a' holds 0 tokens, not the 3.*send the whole history"):
            await engine.check("a", Check(3, [1], []))
        await engine.close("a")
        with pytest.raises(SessionLostError, match="no session 'a'"):
            await engine.check("a", Check(0, PROMPT, []))
        await engine.close("a")  # nothing happens

    run(body)


def test_a_prefix_that_is_not_held_costs_nothing_of_what_is() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        await engine.open("a")
        await engine.check("a", Check(0, PROMPT, []))
        with pytest.raises(SessionLostError):
            await engine.check("a", Check(9, [1], []))
        got = await engine.check("a", Check(4, [], []))
        assert (got.next_token, got.processed_tokens) == (continuation(PROMPT, 2)[1], 1)

    run(body)


def test_a_check_cancelled_in_the_queue_is_never_run() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        await held_back(engine, forward)
        await engine.open("a")
        task = asyncio.create_task(engine.check("a", Check(0, PROMPT, [])))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        forward.gate.set()
        await engine.check("a", Check(0, [7], []))
        assert forward.batches == [[1], [1]]

    run(body)


@pytest.mark.parametrize("in_hand", [True, False])
def test_a_check_of_a_session_that_is_closed_meanwhile_is_lost(in_hand: bool) -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        if not in_hand:
            await held_back(engine, forward)
        await engine.open("a")
        forward.gate.clear()
        forward.entered.clear()
        task = asyncio.create_task(engine.check("a", Check(0, PROMPT, [])))
        if in_hand:
            await entered(forward)
        else:
            await asyncio.sleep(0)
        await engine.close("a")
        with pytest.raises(SessionLostError, match="no session 'a'"):
            await task  # at once, though the gate is shut
        forward.gate.set()

    run(body)


def test_a_session_is_opened_once() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        await engine.open("a")
        with pytest.raises(ValueError, match="session 'a' is open already"):
            await engine.open("a")

    run(body)


# ---------------------------------------------------------------- life


def test_blocks_are_held_as_long_as_their_sessions() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        for name in ("a", "b"):
            await engine.open(name)
            await engine.check(name, Check(0, [*PROMPT, *name.encode()], [0]))
        assert await used_blocks(engine) == 2
        await engine.close("b")  # whose forward was the last
        assert await used_blocks(engine) == 1
        await engine.close("a")
        assert await used_blocks(engine) == 0

    run(body)


def test_stop_fails_what_waits_frees_all_and_is_no_failure() -> None:
    async def live() -> None:
        forward = FakeForward()
        engine = fake_engine(forward)
        await engine.start()
        watch = asyncio.create_task(engine.failed())
        await held_back(engine, forward)
        await engine.open("a")
        check, stream = engine.check("a", Check(0, PROMPT, [])), tokens(engine, PROMPT, 3)
        waiting = [asyncio.create_task(check), asyncio.create_task(stream)]
        await asyncio.sleep(0)
        stopping = asyncio.create_task(engine.stop())
        assert [str(await failure(each)) for each in waiting] == [
            "the verifier is shutting down; try again when it is back"
        ] * 2
        forward.gate.set()
        await stopping
        await engine.stop()
        for late in (engine.open("b"), engine.check("a", Check(0, PROMPT, [])), tokens(engine, PROMPT, 3)):
            assert "shutting down" in str(await failure(late))
        assert engine.usage.used_blocks == engine.usage.waiting == 0
        engine.check_integrity()
        assert not watch.done()
        watch.cancel()

    asyncio.run(asyncio.wait_for(live(), 60))


def test_an_engine_that_was_never_started_can_be_stopped() -> None:
    async def live() -> None:
        engine = fake_engine(FakeForward())
        await engine.stop()
        with pytest.raises(CloudUnavailableError):
            await engine.open("a")

    asyncio.run(asyncio.wait_for(live(), 60))


def test_a_dead_engine_says_so_to_all_that_wait_and_come() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        watch = asyncio.create_task(engine.failed())
        held = await held_back(engine, forward)
        await engine.open("a")
        check, stream = engine.check("a", Check(0, PROMPT, [])), tokens(engine, PROMPT, 3)
        waiting = [asyncio.create_task(check), asyncio.create_task(stream)]
        await asyncio.sleep(0)
        forward.failures.append(SystemExit("planted"))
        forward.gate.set()
        assert "planted" in str(await watch)
        assert str(await engine.failed()) == str(watch.result())
        late = [engine.open("b"), engine.check("a", Check(0, PROMPT, [])), tokens(engine, PROMPT, 3)]
        for each in (held, *waiting, *late):
            with pytest.raises(CloudUnavailableError, match=r"planted.*restart the verifier"):
                await each
        await engine.close("a")

    run(body)
