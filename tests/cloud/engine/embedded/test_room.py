"""More sequences than the KV pool holds: what yields, what is read again, and that every answer is right all the same."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud.engine.base import Check, Iteration
from cloud.engine.embedded.engine import EmbeddedEngine
from runtime.errors import CloudBusyError
from runtime.model.paged_kv import BLOCK_TOKENS
from runtime.policies import POLICIES
from tests.support.embedded import held_back, run, tokens, used_blocks
from tests.support.engine import VOCAB, FakeForward, choice, continuation


async def answers(engine: EmbeddedEngine, name: str, prompt: list[int], chunks: int, draw: random.Random) -> None:
    """One device's answer, checked chunk by chunk; some checks are given up on the way, and asked again."""
    await engine.open(name, account=name[0])
    history, held = list(prompt), 0
    for _ in range(chunks):
        draft = continuation(history, draw.randrange(4))
        draft = [*draft, draw.randrange(VOCAB)][: draw.randrange(1, 5)]
        check = Check(held, history[held:], draft)
        if draw.random() < 0.2:
            task = asyncio.create_task(engine.check(name, check))
            for _ in range(draw.randrange(6)):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                task.exception()
            held = min(held, len(prompt))
            check = Check(0, history, draft)
        got = await engine.check(name, check)
        right = next((i for i, token in enumerate(draft) if token != choice([*history, *draft[:i]])), len(draft))
        assert (got.accepted, got.next_token) == (right, choice([*history, *draft[:right]]))
        history += [*draft[:right], got.next_token]
        held = len(history)
    await engine.close(name)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(POLICIES)),
    st.integers(5, 12),
    st.integers(4, 40),
    st.integers(0, 2**32),
    st.sampled_from(["all", "account", "none"]),
)
def test_many_devices_on_a_small_pool_all_get_right_answers(
    policy: str, blocks: int, budget: int, seed: int, shares: str
) -> None:
    draw = random.Random(seed)
    begins = [[draw.randrange(VOCAB) for _ in range(20)] for _ in range(2)]
    budget = max(budget, 5)

    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        plans = [[*draw.choice(begins), *(draw.randrange(VOCAB) for _ in range(draw.randrange(25)))] for _ in range(7)]
        devices = [
            answers(engine, f"{'xy'[i % 2]}{i}", plan, draw.randrange(1, 5), random.Random(seed + i))
            for i, plan in enumerate(plans)
        ]

        async def streams() -> None:
            prompt = plans[0][:30]
            assert await tokens(engine, prompt, 12) == continuation(prompt, 12)

        await asyncio.gather(*devices, streams(), streams())
        assert await used_blocks(engine) == 0

    run(body, FakeForward(blocks), policy=policy, token_budget=budget, shares_prefixes=shares)


def test_a_session_that_was_evicted_is_read_again_and_goes_on() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        prompt = [i % VOCAB for i in range(40)]
        for name in ("a", "b"):
            await engine.open(name, account=name)
            assert (await engine.check(name, Check(0, prompt, []))).processed_tokens == 40
        assert engine.usage.evicted == 1  # four blocks hold one of them
        got = await engine.check("a", Check(41, [], [3]))
        assert got.next_token == choice([*prompt, choice(prompt)])
        assert 2 <= got.processed_tokens <= 42
        assert engine.usage.evicted == 2

    run(body, FakeForward(4))


def test_what_is_evicted_and_not_yet_overwritten_is_found_again() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        prompt = [i % VOCAB for i in range(3 * BLOCK_TOKENS)]
        await engine.open("a")
        await engine.check("a", Check(0, prompt, []))
        await engine.close("a")
        await engine.open("b")
        assert (await engine.check("b", Check(0, [*prompt, 7], []))).processed_tokens == 1

    run(body, shares_prefixes="account")


@pytest.mark.parametrize(("shares", "processed"), [("all", 9), ("account", 25), ("none", 25)])
def test_whose_prompts_are_shared_is_for_the_operator_to_say(shares: str, processed: int) -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        prompt = [i % VOCAB for i in range(24)]
        for name in ("one", "other"):
            await engine.open(name, account=name)
        await engine.check("one", Check(0, prompt, []))
        assert (await engine.check("other", Check(0, [*prompt, 3], []))).processed_tokens == processed

    run(body, shares_prefixes=shares)


def test_what_never_fits_is_refused_and_costs_nobody_anything() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        await engine.open("a")
        await engine.check("a", Check(0, [1, 2, 3], []))
        with pytest.raises(CloudBusyError, match=r"49 tokens do not fit into the verifier's cache of 48.*--kv-tokens"):
            await engine.check("a", Check(0, [1] * 45, [2] * 4))
        with pytest.raises(CloudBusyError, match="50 tokens"):
            await tokens(engine, [1] * 40, 10)
        assert (await engine.check("a", Check(4, [], []))).processed_tokens == 1
        assert (await engine.check("a", Check(0, [1] * 44, [2] * 4))).next_token >= 0

    run(body, FakeForward(3))


def test_a_long_prompt_is_read_in_chunks_and_checks_go_in_between() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        held = await held_back(engine, forward)
        await engine.open("a", account="a")
        await engine.open("b", account="b")
        long = asyncio.create_task(engine.check("a", Check(0, [7] * 90, [7, 7])))
        short = asyncio.create_task(engine.check("b", Check(0, [1, 2, 3], [5])))
        await asyncio.sleep(0)
        forward.gate.set()
        assert (await short).next_token == choice([1, 2, 3])
        got = await long
        assert got.next_token == choice([7] * 90)
        assert forward.batches == [[1], [4, 36], [40], [16]]
        assert got.processed_tokens == 92
        assert got.compute_share_ms <= got.compute_ms
        await held

    run(body, token_budget=40)


def test_every_forward_is_told_of_by_kinds_of_tokens() -> None:
    told: list[Iteration] = []

    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        engine.watch(told.append)
        await engine.open("a")
        await engine.check("a", Check(0, [1] * 30, [2, 3]))
        assert await tokens(engine, [4] * 5, 3) == continuation([4] * 5, 3)
        await engine.freed()

    run(body, token_budget=20)
    kinds = [(each.requests, each.verify_tokens, each.prefill_tokens, each.decode_tokens) for each in told]
    assert kinds == [(1, 0, 20, 0), (1, 3, 9, 0), (1, 0, 5, 0), (1, 0, 0, 1), (1, 0, 0, 1)]
    assert all(each.seconds >= 0 and each.waiting == 0 for each in told)
