"""The engine of the middle of a split model: its keys and values against one plain cache, its batches, what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cloud.config import ServerConfig
from cloud.engine.base import Check, Chunk, EngineInfo, Iteration, MiddleInfo, Ran
from cloud.engine.embedded.forward import MiddleForward
from cloud.engine.embedded.loading import load
from cloud.engine.embedded.middle import MiddleEngine
from runtime.errors import CloudBusyError, CloudError, CloudRejectedError, SessionLostError
from runtime.model.decoder import Decoder
from runtime.model.loading import load_middle
from runtime.model.split import Split
from runtime.wire.sizes import PRECISIONS
from runtime.wire.tensors import decoded, encoded, quantised
from tests.support.embedded import run_engine
from tests.support.engine import HIDDEN, FakeMiddle, after_middle, fake_middle

Body = Callable[[MiddleEngine, FakeMiddle], Awaitable[None]]


def run(body: Body, forward: FakeMiddle | None = None, **options: Any) -> None:
    """Serve while `body` runs; afterwards nothing is held, and nothing went wrong unseen."""
    run_engine(body, forward or FakeMiddle(), fake_middle, **options)


def states_of(count: int, seed: int = 0, hidden: int = HIDDEN) -> Tensor:
    """Whole numbers [count, hidden]."""
    return torch.randint(-9, 9, (count, hidden), generator=torch.Generator().manual_seed(seed)).float()


def chunk(states: Tensor, prefix: int = 0, returned: int | None = None, precision: str = "fp32") -> Chunk:
    """A chunk of these states; all results are wanted unless told otherwise."""
    return Chunk(prefix, len(states), encoded(states, precision), precision, len(states) if returned is None else returned)


def read(ran: Ran, precision: str = "fp32", hidden: int = HIDDEN) -> Tensor:
    return decoded(ran.states, hidden, precision)


def test_chunks_of_a_session_add_up_and_only_what_is_wanted_comes_back() -> None:
    async def body(engine: MiddleEngine, forward: FakeMiddle) -> None:
        states = states_of(30)
        wanted = after_middle(states)
        await engine.open("a")
        first = await engine.forward("a", chunk(states[:20], returned=0))
        assert (first.states, first.processed_tokens, first.load) == (b"", 20, 1)
        second = await engine.forward("a", chunk(states[20:27], 20, returned=3))
        assert torch.equal(read(second), wanted[24:27])
        assert torch.equal(read(await engine.forward("a", chunk(states[27:], 27))), wanted[27:])
        assert forward.batches == [[20], [7], [3]]

    run(body)


def test_a_rollback_forgets_what_is_behind_it() -> None:
    async def body(engine: MiddleEngine, forward: FakeMiddle) -> None:
        states, other = states_of(40), states_of(8, seed=1)
        await engine.open("a")
        await engine.forward("a", chunk(states))
        again = await engine.forward("a", chunk(other, 17))
        assert torch.equal(read(again), after_middle(torch.cat([states[:17], other]))[17:])
        with pytest.raises(SessionLostError, match="holds 25 tokens, not the 26"):
            await engine.forward("a", chunk(other, 26))
        assert len(read(await engine.forward("a", chunk(other[:1], 25)))) == 1

    run(body)


@pytest.fixture(scope="module")
def middle(tiny_llm: Path) -> Decoder:
    return load_middle(tiny_llm, Split(1, 1))


@settings(max_examples=30)
@given(
    steps=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 30), st.integers(0, 30)), min_size=1, max_size=8),
    seed=st.integers(0, 99),
    budget=st.sampled_from([1, 3, 17, 512]),
)
def test_any_prefixes_rows_and_rollbacks_give_what_a_plain_cache_gives(
    middle: Decoder, steps: list[tuple[float, int, int]], seed: int, budget: int
) -> None:
    """A session beside another one, by a random middle; forwards of any budget cut the chunks anywhere."""
    hidden, layers = middle.config.hidden, (middle.layers[0], middle.layers[-1] + 1)
    info = EngineInfo("torch", "", "", "", 1, 256, (), middle=MiddleInfo(1, 1, hidden, 40))
    made = MiddleEngine(info, MiddleForward(middle, 40), token_budget=budget)

    async def live() -> None:
        await made.start()
        await made.open("a")
        await made.open("b")
        kv, held = middle.new_cache(), 0
        for number, (share, rows, returned) in enumerate(steps):
            prefix, returned = round(share * held), min(returned, rows)
            states = torch.randn(rows, hidden, generator=torch.Generator().manual_seed(seed + number))
            kv.truncate(prefix)
            wanted = middle.run(states, torch.arange(prefix, prefix + rows), kv, *layers)
            beside = made.forward("b", chunk(states, 0, 1))
            ran, _ = await asyncio.gather(made.forward("a", chunk(states, prefix, returned)), beside)
            torch.testing.assert_close(read(ran, hidden=hidden), wanted[rows - returned :], atol=1e-4, rtol=1e-4)
            held = prefix + rows
        await made.stop()
        made.check_integrity()

    asyncio.run(live())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_states_travel_both_ways_in_the_precision_asked_for(precision: str) -> None:
    async def body(engine: MiddleEngine, forward: FakeMiddle) -> None:
        states = states_of(12) / 7
        await engine.open("a")
        ran = await engine.forward("a", chunk(states, returned=5, precision=precision))
        wanted = encoded(after_middle(quantised(states, precision))[7:], precision)
        assert ran.states == wanted

    run(body)


def test_long_states_are_read_and_written_as_short_ones_are() -> None:
    """Beyond 64 KiB a thread does it."""

    async def body(engine: MiddleEngine, forward: FakeMiddle) -> None:
        states = states_of(5000)
        await engine.open("a")
        assert torch.equal(read(await engine.forward("a", chunk(states))), after_middle(states))

    run(body, context_tokens=6000, max_rows=5000)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_states_that_are_no_numbers_are_rejected_and_harm_nothing(wrong: float) -> None:
    async def body(engine: MiddleEngine, forward: FakeMiddle) -> None:
        states = states_of(6)
        await engine.open("a")
        await engine.forward("a", chunk(states))
        bad = states.clone()
        bad[3, 1] = wrong
        with pytest.raises(
            CloudRejectedError, match="the states cannot be read: a hidden state has a number that is not finite"
        ):
            await engine.forward("a", chunk(bad, 6))
        both = torch.cat([states, states])
        assert torch.equal(read(await engine.forward("a", chunk(states, 6))), after_middle(both)[6:])
        assert forward.batches == [[6], [6]]

    run(body)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_states_that_the_middle_makes_no_numbers_of_poison_nobody_elses(dtype: str, tiny_llm: Path) -> None:
    """In one forward, and for who has the same blocks next. The largest number of a float32 is infinite in bfloat16."""
    engine = load(ServerConfig(model=tiny_llm, split=Split(1, 1), dtype=dtype, kv_tokens=256, token_budget=200))
    assert isinstance(engine, MiddleEngine)
    hidden, largest = 32, torch.finfo(torch.float32).max
    sound, ill = [torch.randn(40, hidden, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    ill[::3] = largest
    ill[1::3, 5] = -largest

    async def answer(session_id: str) -> Tensor:
        ran = [await engine.forward(session_id, chunk(sound[:35])), await engine.forward(session_id, chunk(sound[35:], 35))]
        return torch.cat([read(each, hidden=hidden) for each in ran])

    async def live() -> None:
        await engine.start()
        for name in ("alone", "beside", "ill"):
            await engine.open(name)
        want = await answer("alone")
        assert want.isfinite().all()
        for returned in (40, 1, 0):
            got, said = await asyncio.gather(
                answer("beside"), engine.forward("ill", chunk(ill, 0, returned)), return_exceptions=True
            )
            assert isinstance(got, Tensor)
            torch.testing.assert_close(got, want)
            if dtype == "bfloat16" and returned == 40:
                assert isinstance(said, CloudRejectedError)
                assert "makes no finite numbers of these states" in str(said)
            else:
                assert isinstance(said, Ran | CloudRejectedError)
        for name in ("alone", "beside", "ill"):
            await engine.close(name)
        for number in range(4):  # among them the ones that have the blocks of the ill one
            await engine.open(f"later {number}")
            torch.testing.assert_close(await answer(f"later {number}"), want)
        await engine.stop()

    asyncio.run(asyncio.wait_for(live(), 60))
    engine.check_integrity()


def test_drafts_and_prompts_of_several_devices_share_forwards_within_the_token_budget() -> None:
    seen: list[Iteration] = []

    async def body(engine: MiddleEngine, forward: FakeMiddle) -> None:
        engine.watch(seen.append)
        names = [f"device {i}" for i in range(6)]
        for name in (*names, "held"):
            await engine.open(name, name)
        states = {name: states_of(40, seed) for seed, name in enumerate(names)}
        await asyncio.gather(*(engine.forward(name, chunk(states[name][:30], returned=0)) for name in names[:3]))
        await engine.freed()  # and told of
        seen.clear()
        forward.gate.clear()
        forward.entered.clear()
        held = asyncio.create_task(engine.forward("held", chunk(states_of(1))))
        assert await asyncio.to_thread(forward.entered.wait, 30)
        drafts = [engine.forward(name, chunk(states[name][30:34], 30)) for name in names[:3]]
        prompts = [engine.forward(name, chunk(states[name], returned=1)) for name in names[3:]]
        tasks = [asyncio.create_task(each) for each in (*prompts, *drafts)]
        while engine.usage.waiting < 7:
            await asyncio.sleep(0)
        forward.gate.set()
        await held
        ran = await asyncio.gather(*tasks)
        for name, each in zip(names[:3], ran[3:], strict=True):
            assert torch.equal(read(each), after_middle(states[name][:34])[30:])
        for name, each in zip(names[3:], ran[:3], strict=True):
            assert torch.equal(read(each), after_middle(states[name])[39:])

    run(body, token_budget=25)
    sizes = [each.verify_tokens + each.prefill_tokens for each in seen[1:]]
    assert sum(sizes) == 3 * 4 + 3 * 40
    assert max(sizes) <= 25
    first = seen[1]  # all drafts, though they came last, and beside them the beginning of prompts
    assert (first.verify_tokens, first.decode_tokens) == (12, 0)
    assert first.prefill_tokens > 0


def test_results_of_a_chunk_that_is_cut_are_put_together() -> None:
    """More than 32 results need not come of one forward."""

    async def body(engine: MiddleEngine, forward: FakeMiddle) -> None:
        states = states_of(90)
        await engine.open("a")
        assert torch.equal(read(await engine.forward("a", chunk(states, returned=80))), after_middle(states)[10:])
        assert forward.batches == [[20]] * 4 + [[10]]
        await engine.forward("a", chunk(states_of(30), returned=30))  # a draft is not cut
        assert forward.batches[5:] == [[30]]

    run(body, token_budget=20)


def test_whoever_lost_its_blocks_is_told_so_and_begins_again() -> None:
    async def body(engine: MiddleEngine, forward: FakeMiddle) -> None:
        states = states_of(40)
        for name in ("a", "b"):
            await engine.open(name)
            await engine.forward(name, chunk(states))  # 3 of 4 blocks
        assert engine.usage.evicted == 1
        for _ in range(2):
            with pytest.raises(SessionLostError, match="had to yield its keys and values to others; open a new one"):
                await engine.forward("a", chunk(states[:1], 40))
        assert torch.equal(
            read(await engine.forward("b", chunk(states[:1], 40, 1)))[0], after_middle(torch.cat([states, states[:1]]))[40]
        )
        assert torch.equal(read(await engine.forward("a", chunk(states))), after_middle(states))  # all of it

    run(body, FakeMiddle(blocks=4))


def test_a_long_chunk_that_yields_while_it_is_cut_is_read_again_where_it_is_the_first() -> None:
    async def body(engine: MiddleEngine, forward: FakeMiddle) -> None:
        states = states_of(60)
        for name in ("a", "b"):
            await engine.open(name)
        both = await asyncio.gather(*(engine.forward(name, chunk(states)) for name in ("a", "b")))
        for ran in both:
            assert torch.equal(read(ran), after_middle(states))
        assert engine.usage.evicted > 0

    run(body, FakeMiddle(blocks=5), token_budget=16, policy="edf")


def test_what_can_never_fit_is_busy() -> None:
    async def body(engine: MiddleEngine, forward: FakeMiddle) -> None:
        await engine.open("a")
        with pytest.raises(CloudBusyError, match="33 tokens do not fit into the verifier's cache of 32"):
            await engine.forward("a", chunk(states_of(33)))
        assert len(read(await engine.forward("a", chunk(states_of(32))))) == 32

    run(body, FakeMiddle(blocks=2))


def test_a_failed_forward_leaves_the_prefix() -> None:
    async def body(engine: MiddleEngine, forward: FakeMiddle) -> None:
        states = states_of(20)
        await engine.open("a")
        await engine.forward("a", chunk(states[:10]))
        forward.failures.append(RuntimeError("out of memory"))
        with pytest.raises(CloudError, match="out of memory"):
            await engine.forward("a", chunk(states[10:], 10))
        assert torch.equal(read(await engine.forward("a", chunk(states[10:], 10))), after_middle(states)[10:])

    run(body)


def test_a_chunk_that_is_cancelled_leaves_the_prefix_and_a_closed_session_nothing() -> None:
    async def body(engine: MiddleEngine, forward: FakeMiddle) -> None:
        states = states_of(20)
        for name in ("a", "b"):
            await engine.open(name)
        await engine.forward("a", chunk(states[:10]))
        forward.gate.clear()
        forward.entered.clear()
        tasks = [asyncio.create_task(engine.forward(name, chunk(states[:8], prefix))) for name, prefix in (("a", 5), ("b", 0))]
        assert await asyncio.to_thread(forward.entered.wait, 30)
        tasks[0].cancel()
        await engine.close("b")
        with pytest.raises(SessionLostError, match="no session 'b'"):
            await tasks[1]
        forward.gate.set()
        assert torch.equal(read(await engine.forward("a", chunk(states[5:], 5))), after_middle(states)[5:])
        with pytest.raises(SessionLostError, match="no session 'b'"):
            await engine.forward("b", chunk(states))
        await engine.close("a")
        await engine.freed()
        assert engine.usage.used_blocks == 0

    run(body)


def test_a_session_that_is_closed_while_its_states_are_read_holds_nothing() -> None:
    async def body(engine: MiddleEngine, forward: FakeMiddle) -> None:
        await engine.open("a")
        task = asyncio.create_task(engine.forward("a", chunk(states_of(5000))))
        await asyncio.sleep(0)
        await engine.close("a")
        with pytest.raises(SessionLostError):
            await task
        await engine.freed()
        assert engine.usage.used_blocks == 0

    run(body, context_tokens=6000, max_rows=5000)


def test_a_middle_checks_no_drafts_and_writes_no_tokens() -> None:
    async def body(engine: MiddleEngine, forward: FakeMiddle) -> None:
        await engine.open("a")
        with pytest.raises(CloudRejectedError, match="checks no drafts"):
            await engine.check("a", Check(0, [1], []))
        with pytest.raises(CloudRejectedError, match="writes no tokens"):
            await anext(engine.stream([1], 3))

    run(body)


def test_of_a_split_model_only_the_middle_is_loaded(tiny_llm: Path) -> None:
    whole = load(ServerConfig(model=tiny_llm)).info
    engine = load(ServerConfig(model=tiny_llm, split=Split(1, 1), max_chunk_rows=77))
    assert isinstance(engine, MiddleEngine)
    info = engine.info
    assert info.middle is not None
    assert (info.middle.first_layers, info.middle.last_layers, info.middle.hidden, info.middle.max_rows) == (1, 1, 32, 77)
    assert (info.fingerprint, info.vocab, info.context_tokens, info.eos_ids) == (
        whole.fingerprint,
        whole.vocab,
        whole.context_tokens,
        whole.eos_ids,
    )
