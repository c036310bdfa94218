"""The bundled LLM served on another device or in another type: its answers beside those in float32 on the CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from cloud.config import ServerConfig
from cloud.engine.base import Check, Checked
from cloud.engine.registry import load_engine
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.model.placement import Placement
from runtime.model.tokenizer import load_tokenizer
from runtime.synera.verifier import CloudVerifier
from tests.support.placements import OTHER_PLACEMENTS, named
from tests.support.verifying import agreed
from traces import bundled
from traces.tasks import tinyworld

LLM = bundled.PAIR / "llm"
DRAFT = 4
NEW_TOKENS = 48
Answers = list[tuple[list[int], list[int]]]
"""Prompts with what the LLM writes after them, in float32 on the CPU."""


@pytest.fixture(scope="module")
def answers() -> Answers:
    tokenizer = load_tokenizer(LLM)
    tasks = [task for kind in tinyworld.KINDS for task in tinyworld.tasks(kind, "test", 3)]
    prompts = [tokenizer.encode(task.prompt).ids for task in tasks]
    with running_server(ServerConfig(LLM)) as port, CloudClient(f"127.0.0.1:{port}") as client:
        return [(prompt, generated(client, prompt)) for prompt in prompts]


@pytest.fixture(scope="module", params=OTHER_PLACEMENTS)
def other(request: pytest.FixtureRequest) -> Placement:
    return named(request.param)


@pytest.fixture(scope="module")
def client(other: Placement) -> Iterator[CloudClient]:
    config = ServerConfig(LLM, device=other.device, dtype=other.dtype)
    with running_server(config) as port, CloudClient(f"127.0.0.1:{port}") as client:
        yield client


def generated(client: CloudClient, prompt: list[int]) -> list[int]:
    return [each.token for each in client.generate(prompt, NEW_TOKENS)]


def test_most_checks_accept_what_the_other_wrote(answers: Answers, client: CloudClient, other: Placement) -> None:
    drafted = accepted = 0
    with CloudVerifier(client, agreed(client)) as verifier:
        for prompt, answer in answers:
            verifier.open(len(prompt))
            for start in range(0, len(answer), DRAFT):
                draft = answer[start : start + DRAFT]
                verifier.submit((*prompt, *answer[:start]), draft)
                verdict = verifier.result()
                if verdict.accepted < len(draft):
                    assert verdict.next_token != draft[verdict.accepted]
                drafted, accepted = drafted + len(draft), accepted + verdict.accepted
    print(f"\n{other} accepts {accepted / drafted:.3f} of {drafted} tokens that {Placement()} wrote")
    assert accepted / drafted > 0.95


def test_most_answers_are_the_same(answers: Answers, client: CloudClient, other: Placement) -> None:
    same = tokens = 0
    for prompt, answer in answers:
        got = generated(client, prompt)
        assert 0 < len(got) <= NEW_TOKENS
        agreed = next((i for i, (a, b) in enumerate(zip(got, answer, strict=False)) if a != b), min(len(got), len(answer)))
        same, tokens = same + agreed, tokens + len(answer)
    print(f"\n{other} writes {same / tokens:.3f} of {tokens} tokens as {Placement()} does, up to each first difference")
    assert same / tokens > 0.8


def test_device_and_type_reach_the_engine(other: Placement) -> None:
    """Log-probabilities, over which no choice is laid, are close to the exact ones; in another type they are not the same."""

    async def checked(config: ServerConfig) -> Checked:
        engine = load_engine(config)
        await engine.start()
        try:
            await engine.open("a")
            return await engine.check("a", Check(0, range(5, 40), [7, 8]))
        finally:
            await engine.stop()

    got = asyncio.run(checked(ServerConfig(LLM, device=other.device, dtype=other.dtype)))
    exact = asyncio.run(checked(ServerConfig(LLM)))
    assert other.dtype == "float32" or got.draft_logprobs != exact.draft_logprobs
    assert got.draft_logprobs == pytest.approx(exact.draft_logprobs, abs=0.5)
    assert got.next_token == exact.next_token
