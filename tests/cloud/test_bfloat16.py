"""The bundled LLM served in bfloat16: its answers beside those in float32."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from cloud.config import ServerConfig
from cloud.engine.base import Check, Checked
from cloud.engine.registry import load_engine
from cloud.server import running_server
from runtime.client import CloudClient
from runtime.model.tokenizer import load_tokenizer, tokenizer_hash
from runtime.synera.verifier import CloudVerifier
from traces import bundled
from traces.tasks import tinyworld

LLM = bundled.PAIR / "llm"
DRAFT = 4
NEW_TOKENS = 48
Answers = list[tuple[list[int], list[int]]]
"""Prompts with what the LLM writes after them in float32."""


@pytest.fixture(scope="module")
def answers() -> Answers:
    tokenizer = load_tokenizer(LLM)
    tasks = [task for kind in tinyworld.KINDS for task in tinyworld.tasks(kind, "test", 3)]
    prompts = [tokenizer.encode(task.prompt).ids for task in tasks]
    with running_server(ServerConfig(LLM)) as port, CloudClient(f"127.0.0.1:{port}") as client:
        return [(prompt, generated(client, prompt)) for prompt in prompts]


@pytest.fixture(scope="module")
def client() -> Iterator[CloudClient]:
    with running_server(ServerConfig(LLM, dtype="bfloat16")) as port, CloudClient(f"127.0.0.1:{port}") as client:
        yield client


def generated(client: CloudClient, prompt: list[int]) -> list[int]:
    return [each.token for each in client.generate(prompt, NEW_TOKENS)]


def test_most_checks_accept_what_float32_wrote(answers: Answers, client: CloudClient) -> None:
    drafted = accepted = 0
    with CloudVerifier(client, tokenizer_hash(LLM)) as verifier:
        for prompt, answer in answers:
            verifier.open(len(prompt))
            for start in range(0, len(answer), DRAFT):
                draft = answer[start : start + DRAFT]
                verifier.submit((*prompt, *answer[:start]), draft)
                verdict = verifier.result()
                if verdict.accepted < len(draft):
                    assert verdict.next_token != draft[verdict.accepted]
                drafted, accepted = drafted + len(draft), accepted + verdict.accepted
    print(f"\nbfloat16 accepts {accepted / drafted:.3f} of {drafted} tokens that float32 wrote")
    assert accepted / drafted > 0.95


def test_most_answers_are_those_of_float32(answers: Answers, client: CloudClient) -> None:
    same = tokens = 0
    for prompt, answer in answers:
        got = generated(client, prompt)
        assert 0 < len(got) <= NEW_TOKENS
        agreed = next((i for i, (a, b) in enumerate(zip(got, answer, strict=False)) if a != b), min(len(got), len(answer)))
        same, tokens = same + agreed, tokens + len(answer)
    print(f"\nbfloat16 writes {same / tokens:.3f} of {tokens} tokens as float32 does, up to each answer's first difference")
    assert same / tokens > 0.8


def test_the_type_reaches_the_engine() -> None:
    """Its log-probabilities, over which no rounding to a choice is laid, are close to those of float32 but not the same."""

    async def checked(dtype: str) -> Checked:
        engine = load_engine(ServerConfig(LLM, dtype=dtype))
        await engine.start()
        try:
            await engine.open("a")
            return await engine.check("a", Check(0, range(5, 40), [7, 8]))
        finally:
            await engine.stop()

    half, full = asyncio.run(checked("bfloat16")), asyncio.run(checked("float32"))
    assert half.draft_logprobs != full.draft_logprobs
    assert half.draft_logprobs == pytest.approx(full.draft_logprobs, abs=0.5)
    assert half.next_token == full.next_token
