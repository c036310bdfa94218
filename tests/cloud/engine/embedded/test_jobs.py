"""Verdicts and streams, seen through the engine that runs them."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest
import torch

from cloud.engine.base import Check
from cloud.engine.embedded.engine import EmbeddedEngine
from runtime.errors import CloudError
from runtime.model.distributions import accept_sampled, draw, propose, truncated
from runtime.sampling import Draws, Proposal, Purpose, SampledDraft, Sampling
from tests.support.embedded import held_back, run, tokens, used_blocks
from tests.support.engine import VOCAB, FakeForward, choice, continuation, logits_after

PROMPT = [1, 2, 3]


@pytest.mark.parametrize("right", [0, 1, 3])
def test_log_probabilities_are_of_the_judged_tokens_and_of_the_next(right: int) -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        draft = continuation(PROMPT, 3)
        draft[right:] = [(token + 1) % VOCAB for token in draft[right:]]
        await engine.open("a")
        got = await engine.check("a", Check(0, PROMPT, draft))
        assert got.accepted == right
        rows = [logits_after([*PROMPT, *draft[:i]]).log_softmax(-1) for i in range(4)]
        judged = min(right + 1, 3)
        assert got.draft_logprobs == pytest.approx([rows[i][draft[i]].item() for i in range(judged)], abs=1e-6)
        assert got.next_logprob == pytest.approx(rows[right][got.next_token].item(), abs=1e-6)

    run(body)


def test_an_empty_draft_has_no_log_probabilities_but_the_next_tokens() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        await engine.open("a")
        got = await engine.check("a", Check(0, PROMPT, []))
        assert (got.accepted, got.next_token, got.draft_logprobs) == (0, choice(PROMPT), ())
        assert got.next_logprob == pytest.approx(logits_after(PROMPT).log_softmax(-1).max().item(), abs=1e-6)

    run(body)


def test_a_stream_is_greedy_and_ends_at_count_and_eos() -> None:
    async def counted(engine: EmbeddedEngine, forward: FakeForward) -> None:
        assert await tokens(engine, PROMPT, 12) == continuation(PROMPT, 12)

    async def ended(engine: EmbeddedEngine, forward: FakeForward) -> None:
        assert await tokens(engine, PROMPT, 12) == continuation(PROMPT, 3)

    run(counted)
    run(ended, eos_ids=(continuation(PROMPT, 3)[-1],))


def test_a_stream_whose_forward_fails_says_so() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        forward.failures.append(RuntimeError("out of memory"))
        with pytest.raises(CloudError, match="out of memory"):
            await tokens(engine, PROMPT, 3)
        assert await tokens(engine, PROMPT, 3) == continuation(PROMPT, 3)

    run(body)


def test_a_closed_stream_stops_and_is_freed() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        async with aclosing(engine.stream(PROMPT, 90)) as stream:
            assert (await anext(stream)).token == choice(PROMPT)
            assert engine.usage.used_blocks >= 1
        await engine.open("a")
        await engine.check("a", Check(0, [9] * 7, []))  # behind it in the queue
        assert await used_blocks(engine) == 1  # that of the session
        ran = len(forward.batches)
        await engine.check("a", Check(0, [9] * 7, []))
        assert forward.batches[ran:] == [[7]]

    run(body)


def test_a_stream_that_is_cancelled_while_it_waits_is_freed() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        held = await held_back(engine, forward)
        task = asyncio.create_task(tokens(engine, PROMPT, 90))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        forward.gate.set()
        await held
        await engine.check("held", Check(0, [1, 2], []))
        assert forward.batches == [[1], [2]]
        assert await used_blocks(engine) == 1

    run(body)


def test_a_stream_that_is_not_begun_holds_nothing() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        stream = engine.stream(PROMPT, 90)
        assert engine.usage.used_blocks == 0
        await stream.aclose()
        assert forward.batches == []

    run(body)


# ---------------------------------------------------------------- sampled

SAMPLING = Sampling(0.7, 0.95, 30, seed=5)


def sampled_draft(history: list[int], count: int, seed: int) -> tuple[list[int], SampledDraft]:
    """A draft from distributions flatter than the fake LLM's own."""
    settings, draft, proposals = replace(SAMPLING, seed=seed), list[int](), list[Proposal]()
    for _ in range(count):
        before = [*history, *draft]
        proposals.append(propose(0.5 * logits_after(before)[None], settings))
        draft.append(proposals[-1].draw(Draws(seed, before).uniform(Purpose.TOKEN)))
    return draft, SampledDraft(settings, tuple(proposals))


def test_a_sampled_draft_is_judged_by_the_llms_cut_distribution_and_its_own_proposals() -> None:
    outcomes = set()

    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        await engine.open("a")
        for seed in range(30):
            draft, sampled = sampled_draft(PROMPT, 3, seed)
            got = await engine.check("a", Check(0, PROMPT, draft, sampled))
            logits = torch.stack([logits_after([*PROMPT, *draft[:i]]) for i in range(4)])
            targets = truncated(logits, sampled.sampling)
            said = (got.accepted, got.next_token)
            assert said == accept_sampled(draft, sampled.proposals, targets, Draws(seed, PROMPT))
            plain = logits[got.accepted].log_softmax(-1)
            assert got.next_logprob == pytest.approx(plain[got.next_token].item(), abs=1e-6)
            assert len(got.draft_logprobs) == min(got.accepted + 1, 3)
            outcomes.add(got.accepted)
            after = [*PROMPT, *draft[: got.accepted], got.next_token]
            more = await engine.check("a", Check(len(after), [], *sampled_draft(after, 2, seed)))
            assert more.processed_tokens == 3  # the session holds what was accepted, and its recovered or bonus token

    run(body)
    assert outcomes == {0, 1, 2, 3}


def test_a_sampled_stream_is_the_llms_own_sampling_by_the_numbers_of_its_places() -> None:
    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        async def stream(seed: int) -> list[int]:
            return [each.token async for each in engine.stream(PROMPT, 12, replace(SAMPLING, seed=seed))]

        wanted = list(PROMPT)
        for _ in range(12):
            target = truncated(logits_after(wanted)[None], SAMPLING)[0]
            wanted.append(draw(target, Draws(SAMPLING.seed, wanted).uniform(Purpose.TOKEN)))
        together = await asyncio.gather(*(stream(seed) for seed in (5, 5, 6)))
        assert together[0] == together[1] == wanted[3:]
        assert together[2] != wanted[3:] != continuation(PROMPT, 12)

    run(body)


@pytest.mark.parametrize("sampling", [None, SAMPLING])
def test_a_stream_tells_log_probabilities_where_it_is_asked_for_them(sampling: Sampling | None) -> None:
    """By the LLM's own distribution, also where tokens are drawn from another."""

    async def body(engine: EmbeddedEngine, forward: FakeForward) -> None:
        found = [each async for each in engine.stream(PROMPT, 6, sampling, log_probabilities=True)]
        history = list(PROMPT)
        for each in found:
            wanted = logits_after(history).log_softmax(-1)[each.token].item()
            assert each.log_probability == pytest.approx(wanted, abs=1e-6)
            history.append(each.token)
        assert [each.log_probability async for each in engine.stream(PROMPT, 2, sampling)] == [None, None]

    run(body)
